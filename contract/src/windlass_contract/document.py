"""What all documents have in common: camelCase outside, immutable inside, errors that name field and remedy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a document."""

    field: str
    """Path of the field as the user writes it, e.g. `spec.rollout.steps[0].weight`; empty: the document as a whole."""
    value: str
    """What stands there, shortened; empty when the field is missing."""
    remedy: str
    """What is expected instead."""

    def __str__(self) -> str:
        shown = f" is {self.value}" if self.value else ""
        return f"{self.field or 'the document'}{shown}: {self.remedy}"


class DocumentError(ValueError):
    """A document from outside that can't be accepted: which one, and each problem with it."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        """File name or other origin, as the user knows it."""
        self.problems = problems
        super().__init__(f"{source}: " + "; ".join(str(problem) for problem in problems))


class Document(BaseModel):
    """Base of everything that crosses between the parts. Written by machines: fields that a newer part added are
    kept, so that what an older part passes on (a plan in a report) is still what the newer one wrote."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        frozen=True,
        extra="allow",
        allow_inf_nan=False,
    )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary with exactly the fields that were given: reading and writing changes nothing."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    @classmethod
    def parse(cls, value: object, source: str) -> Self:
        """Validates a decoded document. Raises `DocumentError` naming `source`, field, value and remedy."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise DocumentError(source, [_problem(detail) for detail in error.errors()]) from error

    @classmethod
    def parse_json(cls, data: bytes | str, source: str, max_bytes: int = 4 * 1024 * 1024) -> Self:
        """Reads JSON of at most `max_bytes`. Raises `DocumentError`."""
        return cls.parse(load_json(data, source, max_bytes), source)


class StrictDocument(Document):
    """Base of documents that people write: an unknown field is a typo, and an error."""

    model_config = ConfigDict(extra="forbid")


def load_json(data: bytes | str, source: str, max_bytes: int = 4 * 1024 * 1024) -> Any:
    """Decodes JSON without NaN, of at most `max_bytes`. Raises `DocumentError`."""
    if len(data) > max_bytes:
        raise DocumentError(source, [Problem("", "", f"it has {len(data)} bytes; at most {max_bytes} are read")])
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DocumentError(source, [Problem("", "", f"it is not JSON ({error})")]) from error


def load_yaml(data: bytes | str, source: str, max_bytes: int = 1024 * 1024) -> Any:
    """Decodes one YAML document of plain values, without aliases, of at most `max_bytes`. Raises `DocumentError`."""
    if len(data) > max_bytes:
        raise DocumentError(source, [Problem("", "", f"it has {len(data)} bytes; at most {max_bytes} are read")])
    try:
        for token in yaml.scan(data, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken):
                line = token.start_mark.line + 1
                raise DocumentError(
                    source, [Problem("", "", f"line {line}: aliases (*name) are not read; write it out")]
                )
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(source, [Problem("", "", f"it is not YAML ({' '.join(str(error).split())})")]) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _problem(detail: Any) -> Problem:
    """One pydantic error in the words of the person who wrote the document."""
    field = ""
    for part in detail["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    kind = detail["type"]
    if kind == "missing":
        return Problem(field, "", "it is missing and has to be given")
    shown = json.dumps(detail["input"], default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "…"
    if kind == "extra_forbidden":
        return Problem(field, shown, "there is no such field here; check its spelling and indentation")
    message = detail["msg"].removeprefix("Value error, ")
    return Problem(field, shown, message[0].lower() + message[1:])
