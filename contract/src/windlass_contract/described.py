"""The JSON Schema of a document, each field with the text that stands below it.

pydantic can read these texts by itself, but does so whenever a model is imported, from its source: a tenth of a second
of each program's start, for what only the schemas say.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from .document import Document


def json_schema(
    document: type[Document], schema_generator: type[GenerateJsonSchema] = GenerateJsonSchema
) -> dict[str, Any]:
    """By the names that documents have outside."""
    schema = document.model_json_schema(by_alias=True, schema_generator=schema_generator)
    models = {each.__name__: each for each in _descendants(Document)}
    for name, part in {document.__name__: schema, **schema.get("$defs", {})}.items():
        if name in models:
            _describe(part, models[name])
    return schema


def _descendants(model: type[Document]) -> list[type[Document]]:
    return [each for child in model.__subclasses__() for each in (child, *_descendants(child))]


def _describe(schema: dict[str, Any], model: type[Document]) -> None:
    texts: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if issubclass(each, Document):
            texts |= _texts(each)
    for name, field in model.model_fields.items():
        if name in texts:
            schema["properties"][field.alias or name].setdefault("description", texts[name])


def _texts(model: type[Document]) -> dict[str, str]:
    """By field: the string that follows it."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
