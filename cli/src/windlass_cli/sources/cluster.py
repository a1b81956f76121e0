"""A namespace of a cluster, by `kubectl`: it knows kubeconfigs, contexts and every way to log in."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from windlass_cli.errors import UserError
from windlass_contract.decision import Decision
from windlass_contract.document import DocumentError
from windlass_contract.identifiers import GROUP
from windlass_contract.model_version import ModelVersion, ModelVersionStatus
from windlass_contract.record import ServerState

from .kubectl import kubectl
from .source import SeenEvent, SeenVersion, Snapshot

PLANS = f"app.kubernetes.io/managed-by=windlass-operator,{GROUP}/server"
KIND = f"modelversions.{GROUP}"
MAX_STATE_BYTES = 1024 * 1024
BETWEEN_LOOKS = 1.0
"""Seconds between two commands for a live view."""

Object = dict[str, Any]


class ClusterSource:
    """Reads what is there now; writes nothing but decisions, as annotations."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._mark: tuple[float, str] = (0.0, "")

    @property
    def place(self) -> str:
        """See `Source`."""
        return f"namespace {self._namespace}"

    def snapshot(self) -> Snapshot:
        """See `Source`."""
        problems: list[str] = []
        versions = sorted((_version(item) for item in self._items(KIND)), key=_order)
        states = dict(_states(self._items("configmaps", f"--selector={PLANS}"), problems))
        if not states and versions:
            problems.append(
                f"no operator has worked on namespace {self._namespace} yet; is one installed that serves it?"
            )
        events = sorted(_events(self._items("events.events.k8s.io")), key=lambda each: each.at)
        return Snapshot(tuple(versions), states, {}, tuple(events), tuple(problems))

    def fingerprint(self) -> object:
        """See `Source`."""
        if time.monotonic() - self._mark[0] > BETWEEN_LOOKS:
            path = "{range .items[*]}{.metadata.uid}/{.metadata.resourceVersion} {end}"
            self._mark = (time.monotonic(), self._kubectl("get", KIND, f"--output=jsonpath={path}"))
        return self._mark[1]

    def decide(self, decision: Decision) -> str:
        """See `Source`."""
        spec = json.dumps(decision.spec.to_dict(), ensure_ascii=False)
        key = f"decisions.{GROUP}/{decision.spec.id}"
        self._kubectl("annotate", KIND, decision.metadata.name, f"{key}={spec}")
        return f"annotation {key}"

    def _items(self, kind: str, *options: str) -> list[Object]:
        text = self._kubectl("get", kind, *options, "--output=json")
        try:
            items = json.loads(text)["items"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"kubectl get {kind} gave something else than a list of objects") from error
        return [item for item in items if isinstance(item, dict)]

    def _kubectl(self, *arguments: str) -> str:
        return kubectl(self._namespace, *arguments)


def _version(item: Object) -> SeenVersion:
    metadata = item.get("metadata") or {}
    name = str(metadata.get("name"))
    status, document, problem = None, None, ""
    try:
        if item.get("status"):
            status = ModelVersionStatus.parse(item["status"], f"the status of {name}")
    except DocumentError as error:
        status = ModelVersionStatus(phase="Unreadable", message=f"its status can't be read: {error}")
    value = {
        "apiVersion": item.get("apiVersion"),
        "kind": item.get("kind"),
        "metadata": {"name": name, "namespace": metadata.get("namespace")},
        "spec": item.get("spec"),
    }
    try:
        document = ModelVersion.parse(value, name)
    except DocumentError as error:
        problem = str(error)
    return SeenVersion(name, document, status, "", problem)


def _states(items: Iterable[Object], problems: list[str]) -> Iterator[tuple[str, ServerState]]:
    for item in items:
        name = f"ConfigMap {(item.get('metadata') or {}).get('name')}"
        try:
            state = ServerState.parse_json((item.get("data") or {}).get("state.json", ""), name, MAX_STATE_BYTES)
        except DocumentError as error:
            problems.append(str(error))
        else:
            yield state.server, state


def _events(items: Iterable[Object]) -> Iterator[SeenEvent]:
    for item in items:
        regarding = item.get("regarding") or {}
        if str(item.get("reportingController", "")).startswith(f"{GROUP}/"):
            name = str(regarding.get("name", ""))
            about = name if regarding.get("kind") == "ModelVersion" else ""
            server = "" if about else name.removesuffix("-windlass-plan")
            fields = [str(item.get(key, "")) for key in ("type", "reason", "note")]
            yield SeenEvent(str(item.get("eventTime", "")), server, about, *fields)


def _order(version: SeenVersion) -> tuple[str, str, int, str]:
    spec = version.document.spec if version.document else None
    return (spec.server, spec.model, -spec.version, version.name) if spec else ("~", "~", 0, version.name)
