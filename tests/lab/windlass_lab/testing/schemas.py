"""JSON Schemas of what a cluster serves, for kubeconform, which can't fetch any where only registries are in reach."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Document = dict[str, Any]

LOCATION = "{{.ResourceKind}}{{.KindSuffix}}.json"
"""kubeconform's template of a schema's file: `-schema-location <folder>/{{.ResourceKind}}{{.KindSuffix}}.json`."""

EITHER = {"type": ["string", "number"]}
LOOSE = ("IntOrString", "Quantity")
"""Types that are strings in the API's description, and are also written as numbers."""


def write_schemas(kubectl: Callable[..., str], folder: Path) -> int:
    """Writes a schema for each kind that the API server has, custom resources included. Returns how many.

    They are strict: a field that isn't in the API is refused.
    """
    definitions: dict[str, Document] = json.loads(kubectl("get", "--raw", "/openapi/v2"))["definitions"]
    written = 0
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            needed = _reachable(name, definitions)
            schema = _strict(definition, kind) | {
                "definitions": {
                    other: EITHER if other.endswith(LOOSE) else _strict(definitions[other])
                    for other in sorted(needed - {name})
                }
            }
            (folder / file_name(kind["group"], kind["version"], kind["kind"])).write_text(json.dumps(schema))
            written += 1
    return written


def file_name(group: str, version: str, kind: str) -> str:
    """What kubeconform calls a kind's file: the group's first part, lower case."""
    parts = [kind, group.split(".", maxsplit=1)[0], version] if group else [kind, version]
    return "-".join(parts).lower() + ".json"


def _references(definition: Any) -> set[str]:
    return set(re.findall(r'"\$ref": "#/definitions/([^"]+)"', json.dumps(definition)))


def _reachable(name: str, definitions: dict[str, Document]) -> set[str]:
    found, fresh = {name}, {name}
    while fresh:
        fresh = {other for each in fresh for other in _references(definitions[each])} - found
        found |= fresh
    return found


def _strict(definition: Document, kind: Document | None = None) -> Document:
    """A definition in which unknown fields are refused, of one kind if it has several."""
    if definition.get("type") == "string" and definition.get("format") == "int-or-string":
        return EITHER
    strict = dict(definition)
    if "properties" in strict:
        strict["properties"] = {field: _strict(schema) for field, schema in strict["properties"].items()}
        if "x-kubernetes-preserve-unknown-fields" not in strict:
            strict.setdefault("additionalProperties", False)
    if kind is not None:
        version = "/".join(part for part in (kind["group"], kind["version"]) if part)
        strict["required"] = sorted({*strict.get("required", []), "apiVersion", "kind"})
        strict["properties"] = strict.get("properties", {}) | {
            "apiVersion": {"const": version},
            "kind": {"const": kind["kind"]},
        }
    return strict
