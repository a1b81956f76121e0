"""What all documents have in common: camelCase outside, immutable inside, errors that name field and remedy."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from .wording import field_of, remedy, shown

try:  # ten times as fast; PyYAML's wheels have them, a build of one's own may lack the C library
    from yaml import CSafeDumper as SafeDumper
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import SafeDumper, SafeLoader  # type: ignore[assignment]

MAX_DEPTH = 64
"""Levels of lists and mappings in a document."""
_MAX_LISTED = 20


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
        listed = [str(problem) for problem in problems[:_MAX_LISTED]]
        if len(problems) > _MAX_LISTED:
            listed.append(f"and {len(problems) - _MAX_LISTED} more")
        super().__init__(f"{source}: " + "; ".join(listed))


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

    def to_json(self) -> bytes:
        """The same as JSON."""
        return self.model_dump_json(by_alias=True, exclude_unset=True).encode()

    @classmethod
    def parse(cls, value: object, source: str) -> Self:
        """Validates a decoded document. Raises `DocumentError` naming `source`, field, value and remedy."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            problems = [
                Problem(field_of(detail["loc"]), shown(detail), remedy(detail))
                for detail in error.errors(include_url=False)
            ]
            raise DocumentError(source, problems) from error

    @classmethod
    def parse_json(cls, data: bytes | str, source: str, max_bytes: int = 4 * 1024 * 1024) -> Self:
        """Reads JSON of at most `max_bytes`. Raises `DocumentError`."""
        return cls.parse(load_json(data, source, max_bytes), source)


class StrictDocument(Document):
    """Base of documents that people write: an unknown field is a typo, and an error."""

    model_config = ConfigDict(extra="forbid")


def load_json(data: bytes | str, source: str, max_bytes: int = 4 * 1024 * 1024) -> Any:
    """Decodes JSON of at most `max_bytes` and `MAX_DEPTH` levels, without NaN, infinity, half characters and keys given
    twice. Raises `DocumentError`.
    """
    _check_size(data, source, max_bytes)
    try:
        value = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_single_keys)
        if "\\u" in (data if isinstance(data, str) else data.decode("utf-8", "replace")):
            # Half a surrogate pair can be written with \\u, but is no character: nobody could write it on.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason: object = error
        if isinstance(error, RecursionError):
            reason = _TOO_DEEP
        elif isinstance(error, UnicodeEncodeError):
            reason = f"{error.object[error.start : error.end]!r} is half a surrogate pair, and no character"
        raise DocumentError(source, [Problem("", "", f"it is not JSON ({reason})")]) from error
    _check_depth(value, source)
    return value


def load_yaml(data: bytes | str, source: str, max_bytes: int = 1024 * 1024) -> Any:
    """Decodes one YAML document of plain values, of at most `max_bytes` and `MAX_DEPTH` levels, without aliases
    and keys given twice. Times stay text. Raises `DocumentError`.
    """
    _check_size(data, source, max_bytes)
    try:
        depth = 0
        for token in yaml.scan(data, Loader=SafeLoader):
            line = token.start_mark.line + 1
            if isinstance(token, yaml.AliasToken):
                raise DocumentError(
                    source, [Problem("", "", f"line {line}: aliases (*name) are not read; write it out")]
                )
            depth += isinstance(token, _BEGINNINGS) - isinstance(token, _ENDS)
            if depth > MAX_DEPTH:
                raise DocumentError(source, [Problem("", "", f"line {line}: {_TOO_DEEP}")])
        return yaml.load(data, Loader=_YamlLoader)  # noqa: S506  # a SafeLoader, stricter
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, DocumentError):
            raise
        reason = re.sub(r'in "<(unicode|byte) string>", ', "at ", " ".join(str(error).split()))
        if "expected a single document" in reason:
            reason = "one document is expected: put each into a file of its own"
        raise DocumentError(source, [Problem("", "", f"it is not YAML ({reason})")]) from error


def dump_yaml(value: Any) -> str:
    """Plain values as a YAML document, keys in their order."""
    text = _dumped(value, SafeDumper)
    # The C library has no other way to write an emoji.
    return _dumped(value, yaml.SafeDumper) if "\\U000" in text else text


def _dumped(value: Any, dumper: Any) -> str:
    return str(yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120))


class _YamlLoader(SafeLoader):
    """Refuses what hides an error: a key given twice (the last would win), and numbers that JSON hasn't."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        value = super().construct_yaml_float(node)
        if not math.isfinite(value):
            raise yaml.constructor.ConstructorError(None, None, f"{node.value} is no finite number", node.start_mark)
        return float(value)


_YamlLoader.add_constructor("tag:yaml.org,2002:float", _YamlLoader.construct_yaml_float)
# A time without quotes stays what was written.
_YamlLoader.add_constructor("tag:yaml.org,2002:timestamp", lambda _loader, node: str(node.value))

_BEGINNINGS = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_ENDS = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"


def _check_size(data: bytes | str, source: str, max_bytes: int) -> None:
    if len(data) > max_bytes:
        raise DocumentError(source, [Problem("", "", f"it has {len(data)} bytes; at most {max_bytes} are read")])


def _check_depth(value: Any, source: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise DocumentError(source, [Problem("", "", _TOO_DEEP)])


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _single_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} is given twice")
    return value
