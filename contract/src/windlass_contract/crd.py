"""The CustomResourceDefinition of ModelVersions, and its reference page, generated from the same models as all else.

The API server wants a *structural* schema: no references, no alternatives, no `additionalProperties: false` (it drops
unknown fields, and `kubectl` refuses them by itself), and defaults where a user would look for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .described import json_schema
from .document import Document, dump_yaml
from .identifiers import GROUP
from .model_version import ModelVersionSpec, ModelVersionStatus

PLURAL = "modelversions"
MAX_BYTES = 100_000
"""Of the CRD: `kubectl apply` keeps a copy of it in an annotation, and every API server holds it."""

_KEPT = (
    "type",
    "description",
    "enum",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "x-kubernetes-validations",
)
_COLUMNS = (
    ("Server", "string", ".spec.server", 0, "Whose replicas get it"),
    ("Model", "string", ".spec.model", 0, "The model's name"),
    ("Version", "integer", ".spec.version", 0, "The version's number"),
    ("Phase", "string", ".status.phase", 0, "Where it is in its life"),
    ("Serving", "integer", ".status.replicas.committed", 0, "Replicas that answer with it by default"),
    ("Prepared", "integer", ".status.replicas.prepared", 0, "Replicas that hold it, warm and checked"),
    ("Replicas", "integer", ".status.replicas.desired", 0, "Replicas that take part"),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Since it was applied"),
    ("Step", "string", ".status.step", 1, "Where in its steps the rollout is"),
    ("Back", "string", ".status.wayBack", 1, "Where a rollback would go to"),
    ("Message", "string", ".status.message", 1, "The phase explained"),
)


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            # Deleting it deletes every ModelVersion of the cluster: uninstalling the operator must not.
            "annotations": {"helm.sh/resource-policy": "keep"},
            "labels": {"app.kubernetes.io/name": "windlass", "app.kubernetes.io/part-of": "windlass"},
        },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": "ModelVersion",
                "listKind": "ModelVersionList",
                "plural": PLURAL,
                "singular": "modelversion",
                "shortNames": ["mv"],
                "categories": ["windlass"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": "v1alpha1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "selectableFields": [{"jsonPath": ".spec.server"}, {"jsonPath": ".spec.model"}],
                    "additionalPrinterColumns": [_column(*column) for column in _COLUMNS],
                    "schema": {"openAPIV3Schema": _schema()},
                }
            ],
        },
    }


def as_yaml() -> str:
    """The CRD as a file. Raises `ValueError` when it has become too large to be applied."""
    head = "# Generated from the contract's models by `make schemas`; edits are lost.\n"
    text = head + dump_yaml(definition())
    if len(text.encode()) >= MAX_BYTES:
        raise ValueError(
            f"the CRD has {len(text.encode())} bytes; at most {MAX_BYTES} are allowed: shorten descriptions"
        )
    return text


def _schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "One version of one model on one server: what is wanted, and what is true of it.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(ModelVersionSpec),
            "status": structural(ModelVersionStatus, defaults=False),
        },
    }


def structural(document: type[Document], *, defaults: bool = True) -> dict[str, Any]:
    """A model's schema as the API server takes it."""
    schema = json_schema(document)
    return _node(schema, schema.get("$defs", {}), defaults=defaults)


def _node(schema: dict[str, Any], models: dict[str, Any], *, defaults: bool) -> dict[str, Any]:
    schema = _resolved(schema, models)
    node = {key: schema[key] for key in _KEPT if key in schema}
    if "description" in node:
        node["description"] = " ".join(node["description"].replace("`", "").split())
    if node.get("type") == "integer":
        node["format"] = "int64"
    if "const" in schema:
        node["enum"] = [schema["const"]]
    if "properties" in schema:
        node["properties"] = {
            name: _property(value, models, defaults=defaults) for name, value in schema["properties"].items()
        }
        if schema.get("required"):
            node["required"] = schema["required"]
    elif schema.get("type") == "object":
        # A mapping: of texts, since nothing else is declared.
        node["additionalProperties"] = _node(schema.get("additionalProperties", {}), models, defaults=defaults)
    if "items" in schema:
        node["items"] = _node(schema["items"], models, defaults=defaults)
        keyed = "type" in node["items"].get("properties", {}) and "type" in node["items"].get("required", ())
        node["x-kubernetes-list-type"] = "map" if keyed else "atomic"
        if keyed:
            node["x-kubernetes-list-map-keys"] = ["type"]
    return node


def _property(schema: dict[str, Any], models: dict[str, Any], *, defaults: bool) -> dict[str, Any]:
    node = _node(schema, models, defaults=defaults)
    default = schema.get("default")
    if not defaults or default is None or node["type"] == "array":
        return node
    if node["type"] == "object":
        # What is inside has defaults of its own; they are filled in once the object is there.
        if any("default" in inner for inner in node.get("properties", {}).values()):
            node["default"] = {}
        return node
    return node | {"default": default}


def _resolved(schema: dict[str, Any], models: dict[str, Any]) -> dict[str, Any]:
    """Without a reference, and without the alternative of null: a field is left out instead."""
    alternatives = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if len(alternatives) > 1:
        raise ValueError(f"a structural schema has no alternatives: {alternatives}")
    outer = {key: value for key, value in schema.items() if key not in ("anyOf", "$ref")}
    inner = alternatives[0] if alternatives else {"$ref": schema["$ref"]} if "$ref" in schema else {}
    if "$ref" in inner:
        inner = {key: value for key, value in inner.items() if key != "$ref"} | _resolved(
            models[inner["$ref"].removeprefix("#/$defs/")], models
        )
    return inner | outer


def _column(name: str, kind: str, path: str, priority: int, description: str) -> dict[str, Any]:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | {"priority": priority} if priority else column


_PAGE = """<!-- Generated from the contract's models by `make schemas`; edits are lost. -->
# Reference: ModelVersion on Kubernetes

`modelversions.{group}`, version `v1alpha1`, short name `mv`, category `windlass`. `kubectl explain modelversion.spec`
says the same. How a ModelVersion is used is told in [ModelVersion](model-version.md) and, for a cluster, in
[the operator on Kubernetes](kubernetes-operator.md).

## spec

What people write.

| field | type | default | meaning |
|---|---|---|---|
{spec}

The API server refuses an object, or an edit of one, with these messages:

| field | message | rule |
|---|---|---|
{rules}

## status

What is true, written by the operator. Nothing reads it back: it may be deleted at any time, and is written anew.

| field | type | meaning |
|---|---|---|
{status}
"""


def as_page() -> str:
    """The reference page."""
    spec, status = structural(ModelVersionSpec), structural(ModelVersionStatus, defaults=False)
    return _PAGE.format(
        group=GROUP,
        spec="\n".join(
            f"| `{path}` | {_kind(node, required=required)} | {_code(node.get('default'))} | {_words(node)} |"
            for path, node, required in _walk("spec", spec)
        ),
        rules="\n".join(
            f"| `{path}` | {rule['message']} | {_code(rule['rule'].replace('|', chr(92) + '|'))} |"
            for path, node, _ in [("spec", spec, True), *_walk("spec", spec)]
            for rule in (
                node.get("x-kubernetes-validations", []) or node.get("items", {}).get("x-kubernetes-validations", [])
            )
        ),
        status="\n".join(
            f"| `{path}` | {_kind(node, required=True)} | {_words(node)} |" for path, node, _ in _walk("status", status)
        ),
    )


def _walk(path: str, node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    for name, inner in node.get("properties", {}).items():
        below = f"{path}.{name}"
        yield below, inner, name in node.get("required", ())
        yield from _walk(below, inner)
        if "items" in inner:
            yield from _walk(f"{below}[]", inner["items"])


def _kind(node: dict[str, Any], *, required: bool) -> str:
    if "enum" in node:
        kind = " \\| ".join(f"`{value}`" for value in node["enum"])
    else:
        kind = "list" if node["type"] == "array" else node["type"]
    return kind if required or "default" in node else f"{kind}, optional"


def _words(node: dict[str, Any]) -> str:
    return str(node.get("description", "")).replace("|", "\\|")


def _code(value: object) -> str:
    return "" if value is None else f"`{value}`"
