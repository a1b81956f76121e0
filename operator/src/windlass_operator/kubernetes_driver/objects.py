"""What one object of the cluster says. Pure; everything in it comes from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from windlass_contract.decision import DecisionSpec
from windlass_contract.document import DocumentError, load_json
from windlass_contract.identifiers import GROUP, ServerName
from windlass_contract.model_version import ModelVersion
from windlass_contract.record import PodTemplate

from .api import Object, version_of

SERVER_LABEL = f"{GROUP}/server"
REVISION_ANNOTATION = f"{GROUP}/revision"
"""Of a Pod template: replicas are told it as their revision."""
REVISION_VARIABLE = "WINDLASS_REVISION"
MODELS_VOLUME = "models"
"""Of Pods: may be an image."""
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGER = "windlass-operator"
DECISION_PREFIX = f"decisions.{GROUP}/"
MAX_DECISION_BYTES = 8 * 1024

_SERVER: TypeAdapter[str] = TypeAdapter(ServerName)


@dataclass(frozen=True)
class Named:
    """What all objects have."""

    namespace: str
    name: str
    uid: str
    version: int
    """Its resource version; larger is newer."""

    @property
    def id(self) -> tuple[str, str]:
        """Names it among those of its kind."""
        return self.namespace, self.name


@dataclass(frozen=True)
class SeenObject(Named):
    """A ModelVersion."""

    generation: int
    server: str
    """As far as it can be read; empty: it can't."""
    model_version: ModelVersion | None
    """None: it can't be understood."""
    problem: str
    """Why it can't."""
    decisions: tuple[DecisionSpec, ...]
    bad_decisions: tuple[str, ...]
    """What is wrong with annotations that should hold decisions, in a sentence each."""
    status: Mapping[str, Any]
    """As it stands there; only compared with what should stand there."""


@dataclass(frozen=True)
class SeenPod(Named):
    """A Pod of a server."""

    server: str
    ready: bool
    """Whether it gets traffic."""
    ended: bool
    """Whether it is being deleted, or has ended: its token counts no more once it is gone."""


@dataclass(frozen=True)
class SeenDeployment(Named):
    """A Deployment of a server."""

    server: str
    wanted: int
    """Replicas that its spec asks for."""
    revision: str = ""
    """Of its Pod template, as we gave it; empty: none."""
    tells_revision: bool = True
    """Whether replicas that are made from the template are told its revision."""
    image: str = ""
    """That its volume of models mounts; empty: it is a volume of another kind."""


def model_version_of(value: Object) -> SeenObject:
    """What a ModelVersion says."""
    metadata = value.get("metadata") or {}
    spec = value.get("spec")
    model_version, problem = None, ""
    try:
        # Labels and annotations are people's and other programs'; what decides is in spec.
        model_version = ModelVersion.parse(
            {
                "apiVersion": value.get("apiVersion", f"{GROUP}/v1alpha1"),
                "kind": "ModelVersion",
                "metadata": {"name": metadata.get("name"), "namespace": metadata.get("namespace")},
                "spec": spec,
            },
            str(metadata.get("name")),
        )
    except DocumentError as error:
        problem = str(error)[:2000]
    decisions, bad = _decisions(metadata.get("annotations") or {})
    return SeenObject(
        *_named(value),
        generation=_number(metadata.get("generation"), 1),
        server=_server(spec.get("server") if isinstance(spec, dict) else None),
        model_version=model_version,
        problem=problem,
        decisions=decisions,
        bad_decisions=bad,
        status=value.get("status") or {},
    )


def pod_of(value: Object) -> SeenPod:
    """What a Pod says."""
    metadata, status = value.get("metadata") or {}, value.get("status") or {}
    ended = "deletionTimestamp" in metadata or status.get("phase") in ("Succeeded", "Failed")
    conditions = {each.get("type"): each.get("status") for each in status.get("conditions") or ()}
    return SeenPod(
        *_named(value),
        server=_server((metadata.get("labels") or {}).get(SERVER_LABEL)),
        ready=conditions.get("Ready") == "True" and not ended,
        ended=ended,
    )


def deployment_of(value: Object) -> SeenDeployment:
    """What a Deployment says."""
    labels = (value.get("metadata") or {}).get("labels") or {}
    wanted = _number((value.get("spec") or {}).get("replicas"), 1)
    template = (value.get("spec") or {}).get("template") or {}
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    pod = template.get("spec") or {}
    containers = pod.get("containers") or ()
    images = {each.get("name"): each.get("image") or {} for each in pod.get("volumes") or ()}
    return SeenDeployment(
        *_named(value),
        server=_server(labels.get(SERVER_LABEL)),
        wanted=wanted,
        revision=str(annotations.get(REVISION_ANNOTATION) or ""),
        tells_revision=any(
            each.get("name") == REVISION_VARIABLE for one in containers for each in one.get("env") or ()
        ),
        image=str(images.get(MODELS_VOLUME, {}).get("reference") or ""),
    )


def template_patch(seen: SeenDeployment, wanted: PodTemplate) -> Object:
    """What makes of a Deployment's Pod template what is wanted, as long as nobody changed it since it was seen."""
    template: Object = {"metadata": {"annotations": {REVISION_ANNOTATION: wanted.revision or None}}}
    if wanted.image:
        template["spec"] = {"volumes": [{"name": MODELS_VOLUME, "image": {"reference": wanted.image}}]}
    return {"metadata": {"resourceVersion": str(seen.version)}, "spec": {"template": template}}


def _named(value: Object) -> tuple[str, str, str, int]:
    metadata = value.get("metadata") or {}
    return (
        str(metadata.get("namespace") or ""),
        str(metadata.get("name") or ""),
        str(metadata.get("uid") or ""),
        version_of(value),
    )


def _decisions(annotations: Mapping[str, str]) -> tuple[tuple[DecisionSpec, ...], tuple[str, ...]]:
    good, bad = [], []
    for key, text in sorted(annotations.items()):
        if not key.startswith(DECISION_PREFIX):
            continue
        expected = key.removeprefix(DECISION_PREFIX)
        try:
            decision = DecisionSpec.parse(load_json(text, key, MAX_DECISION_BYTES), f"annotation {key}")
        except DocumentError as error:
            bad.append(str(error)[:1000])
            continue
        if decision.id == expected:
            good.append(decision)
        else:
            bad.append(f"annotation {key}: id is {decision.id!r}; it has to be {expected!r}, as in the key")
    return tuple(good), tuple(bad)


def _server(value: object) -> str:
    try:
        return _SERVER.validate_python(value)
    except ValidationError:
        return ""


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default
