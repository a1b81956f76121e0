"""Writes each chart's values.schema.json and the table in its README.md from the comments in values.yaml.

`python charts/generate.py` writes them, `--check` says which are behind (exit code 1).

In values.yaml the comment above a key says what it is: lines from `# -- ` on are its description, for people;
`# @schema {…}` (YAML) adds to its JSON Schema. What the default shows needs no saying: its type, and the keys of a map.
Maps are closed, so that a misspelt value is refused, unless `additionalProperties` opens them.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHARTS = Path(__file__).resolve().parent
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):(?: |$)")
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


@dataclass
class Value:
    """One key of values.yaml with what its comment says."""

    path: tuple[str, ...]
    default: Any
    description: str = ""
    schema: dict[str, Any] = field(default_factory=dict)

    @property
    def is_closed_map(self) -> bool:
        """Whether its keys are values of their own."""
        return isinstance(self.default, dict) and "additionalProperties" not in self.schema


def read(text: str, file: str) -> list[Value]:
    """All values of a values.yaml, in its order. Raises `ValueError`, which names the file, key and remedy."""
    defaults = yaml.safe_load(text)
    found: list[Value] = []
    comment: list[str] = []
    above: list[tuple[int, str]] = []
    opaque: int | None = None  # the indent of an open map: what is below it isn't a value of its own
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.strip())
            continue
        match = _KEY.match(line)
        if match:
            indent = len(match["indent"])
            if opaque is not None and indent > opaque:
                continue
            opaque = None
            above = [each for each in above if each[0] < indent] + [(indent, match["key"])]
            value = _value(tuple(key for _, key in above), defaults, comment, file)
            found.append(value)
            if not value.is_closed_map:
                opaque = indent
        comment = []
    return found


def _value(path: tuple[str, ...], defaults: Any, comment: list[str], file: str) -> Value:
    default = defaults
    for key in path:
        default = default[key]
    value = Value(path, default)
    text: list[str] = []
    for line in comment:
        if line.startswith("# -- "):
            text = [line.removeprefix("# -- ")]
        elif line.startswith("# @schema "):
            value.schema = yaml.safe_load(line.removeprefix("# @schema "))
        elif text:
            text.append(line.removeprefix("# "))
    value.description = " ".join(text)
    name = ".".join(path)
    if value.is_closed_map and not default:
        raise ValueError(
            f"{file}: {name} is an empty map: say what may be in it with # @schema {{additionalProperties: …}}"
        )
    if not value.is_closed_map and not value.description:
        raise ValueError(f"{file}: {name} has no description: write one above it, beginning with # --")
    if isinstance(default, list) and "items" not in value.schema:
        raise ValueError(f"{file}: {name} is a list: say what may be in it with # @schema {{items: …}}")
    if default is None and "type" not in value.schema:
        raise ValueError(f"{file}: {name} is null: say its type with # @schema {{type: …}}")
    return value


def schema(values: list[Value], chart: str) -> dict[str, Any]:
    """The JSON Schema of a chart's values."""
    root: dict[str, Any] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"Values of {chart}",
        "type": "object",
        "additionalProperties": False,
        "properties": {"global": {"type": "object", "description": "Helm's own, for charts that contain this one"}},
    }
    for value in values:
        parent = root
        for key in value.path[:-1]:
            parent = parent["properties"][key]
        own: dict[str, Any] = {"description": value.description} if value.description else {}
        own |= {"type": _TYPES[type(value.default)]} if value.default is not None else {}
        own |= value.schema
        if value.is_closed_map:
            own |= {"additionalProperties": False, "properties": {}}
        parent["properties"][value.path[-1]] = own
    return root


def table(values: list[Value]) -> str:
    """The values as a Markdown table."""
    lines = ["| value | default | what it is |", "|---|---|---|"]
    for value in values:
        if not value.is_closed_map:
            default = json.dumps(value.default, ensure_ascii=False).replace("|", "\\|")
            lines.append(
                f"| `{'.'.join(value.path)}` | `{default}` | {value.description.replace('|', chr(92) + '|')} |"
            )
    return "\n".join(lines)


def generated(chart: Path) -> dict[Path, str]:
    """Each generated file of a chart with what has to be in it."""
    values = read((chart / "values.yaml").read_text(encoding="utf-8"), f"{chart.name}/values.yaml")
    readme = chart / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{readme}: the lines {BEGIN} and {END} are missing; the table of values goes between them")
    return {
        chart / "values.schema.json": json.dumps(schema(values, chart.name), indent=2, ensure_ascii=False) + "\n",
        readme: f"{before}{BEGIN}\n{table(values)}\n{END}{after}",
    }


def main(arguments: list[str]) -> int:
    """Writes or checks; gives the exit code."""
    behind = []
    for chart in sorted(path.parent for path in CHARTS.glob("*/Chart.yaml")):
        for file, text in generated(chart).items():
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                behind.append(file)
                if "--check" not in arguments:
                    file.write_text(text, encoding="utf-8")
    if "--check" not in arguments:
        return 0
    for file in behind:
        print(f"{file.relative_to(CHARTS.parent)} isn't what values.yaml says; run `make charts`", file=sys.stderr)
    return 1 if behind else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
