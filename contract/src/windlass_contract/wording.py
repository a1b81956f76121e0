"""Pydantic's errors in the words of the person who wrote the document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .identifiers import WORDS

_SHOWN = 60

_PLAIN = {
    "missing": "it is missing and has to be given",
    "extra_forbidden": "there is no such field here; check its spelling and indentation",
    "string_type": "text is expected",
    "string_unicode": "text in UTF-8 is expected",
    "int_type": "a whole number is expected",
    "int_parsing": "a whole number is expected",
    "int_parsing_size": "a smaller whole number is expected",
    "int_from_float": "a whole number is expected",
    "float_type": "a number is expected",
    "float_parsing": "a number is expected",
    "finite_number": "a finite number is expected",
    "bool_type": "true or false is expected",
    "bool_parsing": "true or false is expected",
    "dict_type": "fields with values (a mapping) are expected",
    "model_type": "fields with values (a mapping) are expected",
    "list_type": "a list is expected",
}

_BOUNDS = {
    "greater_than": ("more than {} is expected", "gt"),
    "greater_than_equal": ("at least {} is expected", "ge"),
    "less_than": ("less than {} is expected", "lt"),
    "less_than_equal": ("at most {} is expected", "le"),
    "string_too_short": ("at least {} characters are expected", "min_length"),
    "string_too_long": ("at most {} characters are allowed", "max_length"),
    "too_short": ("at least {} entries are expected", "min_length"),
    "too_long": ("at most {} entries are allowed", "max_length"),
}


def field_of(location: tuple[int | str, ...]) -> str:
    """The path as users write it: `spec.rollout.steps[0].weight`. Keys that aren't plain names are quoted."""
    field = ""
    for part in location:
        if isinstance(part, int):
            field += f"[{part}]"
        elif part == "[key]":
            continue
        elif part.isidentifier():
            field += f".{part}" if field else part
        else:
            field += f"[{json.dumps(part, ensure_ascii=False)}]"
    return field


def shown(detail: Mapping[str, Any]) -> str:
    """What stands there, shortened; empty when it is missing or the problem is with all of it."""
    if detail["type"] in {"missing", "value_error"} and not isinstance(detail["input"], str | int | float):
        return ""
    text = json.dumps(detail["input"], default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def remedy(detail: Mapping[str, Any]) -> str:
    """What is expected instead."""
    words = _expectation(detail["type"], detail.get("ctx", {}), detail["msg"])
    if detail["loc"] and detail["loc"][-1] == "[key]":
        words = f"as a name, {words}"
    given = detail["input"]
    if detail["type"] == "string_type" and isinstance(given, str | int | float):
        return words + "; put it in quotes"
    if detail["type"] in {"int_type", "float_type"} and isinstance(given, str) and _is_number(given):
        return words + "; take the quotes away"
    return words


def _expectation(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        limit = context[bound]
        if limit == 1:
            words = words.replace("characters are", "character is").replace("entries are", "entry is")
        return words.format(int(limit) if isinstance(limit, float) and limit.is_integer() else limit)
    if kind == "string_pattern_mismatch":
        return WORDS.get(context["pattern"], f"text like {context['pattern']} is expected")
    if kind in {"enum", "literal_error"}:
        return f"write {context['expected']}"
    words = message.removeprefix("Value error, ")
    return words[0].lower() + words[1:]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
