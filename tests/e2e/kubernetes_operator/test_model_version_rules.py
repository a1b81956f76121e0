"""What the API server itself accepts and refuses of a ModelVersion, and what it tells people about the fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from windlass_lab.errors import CommandError

pytestmark = pytest.mark.lab

DIGEST = "sha256:" + "a" * 64


def model_version(**changes: Any) -> dict[str, Any]:
    """A small one, with fields of `spec` by path: `rollout__steps=[…]`; None leaves a field out."""
    spec: dict[str, Any] = {
        "server": "cats",
        "model": "m",
        "version": 1,
        "artifact": {"uri": "volume://", "digest": DIGEST},
    }
    for path, value in changes.items():
        *folders, last = path.split("__")
        node = spec
        for name in folders:
            node = node.setdefault(name, {})
        if value is None:
            node.pop(last)
        else:
            node[last] = value
    return {"apiVersion": "windlass.dev/v1alpha1", "kind": "ModelVersion", "metadata": {"name": "m-1"}, "spec": spec}


ACCEPTED: dict[str, dict[str, Any]] = {
    "the least": {"artifact__digest": None},
    "version 0": {"version": 0},
    "the largest version": {"version": 2**53 - 1},
    "every kind of step": {
        "rollout__steps": [
            {"shadow": "100%", "duration": "5m"},
            {"weight": "0.5%", "duration": "1h30m"},
            {"weight": "25%", "pause": {}},
            {"pause": {}},
        ]
    },
    "gates": {
        "rollout__gates": {"minRequests": 1, "maxErrorRate": "1%", "maxLatencyRatio": 1.2, "minAgreement": "98%"}
    },
    "samples of a ConfigMap": {"verify__samples": {"configMap": "accept", "minScore": "95.5%"}},
    "samples of a uri": {"verify__samples": {"uri": "https://example.org/s.json", "digest": DIGEST}},
    "Retired": {"state": "Retired"},
    "Restart": {"rollout__mode": "Restart"},
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no server": ({"server": None}, "spec.server"),
    "a server's name in capitals": ({"server": "Cats"}, "spec.server"),
    "a server's name that is too long": ({"server": "a" * 64}, "spec.server"),
    "a model's name with a slash": ({"model": "a/b"}, "spec.model"),
    "a negative version": ({"version": -1}, "spec.version"),
    "a version as text": ({"version": "1"}, "spec.version"),
    "a version too large for JSON": ({"version": 2**53}, "spec.version"),
    "no artifact": ({"artifact": None}, "spec.artifact"),
    "a uri without a scheme": ({"artifact__uri": "cats/1"}, "spec.artifact.uri"),
    "a digest that is none": ({"artifact__digest": "sha256:abc"}, "spec.artifact.digest"),
    "an unknown field": ({"sever": "cats"}, "sever"),
    "an unknown state": ({"state": "active"}, "spec.state"),
    "an unknown mode": ({"rollout__mode": "Fast"}, "spec.rollout.mode"),
    "a duration in words": ({"rollout__keepPrevious": "ten minutes"}, "spec.rollout.keepPrevious"),
    "a share above all": ({"rollout__steps": [{"weight": "101%", "pause": {}}]}, "spec.rollout.steps[0].weight"),
    "too many steps": ({"rollout__steps": [{"pause": {}}] * 65}, "spec.rollout.steps"),
    "shadow and weight": (
        {"rollout__steps": [{"shadow": "1%", "weight": "1%", "duration": "1m"}]},
        "a step has either shadow or weight, not both",
    ),
    "an empty step": ({"rollout__steps": [{"duration": "1m"}]}, "a step has a shadow, a weight or a pause"),
    "duration and pause": (
        {"rollout__steps": [{"weight": "1%", "duration": "1m", "pause": {}}]},
        "a step ends after a duration or by approval (pause), not both",
    ),
    "a ratio below 1": ({"rollout__gates": {"maxLatencyRatio": 0.5}}, "spec.rollout.gates.maxLatencyRatio"),
    "no requests": ({"rollout__gates": {"minRequests": 0}}, "spec.rollout.gates.minRequests"),
    "samples from nowhere": ({"verify__samples": {"minScore": "1%"}}, "exactly one of configMap, file and uri"),
    "samples from two places": (
        {"verify__samples": {"configMap": "a", "file": "a.json"}},
        "exactly one of configMap, file and uri",
    ),
    "samples of a uri without digest": ({"verify__samples": {"uri": "https://example.org"}}, "need a digest"),
}

EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "server": ({"server": "dogs"}, "spec.server can't be edited"),
    "model": ({"model": "n"}, "spec.model can't be edited"),
    "version": ({"version": 2}, "spec.version can't be edited"),
    "uri": ({"artifact__uri": "volume://other"}, "spec.artifact.uri can't be edited"),
    "digest": ({"artifact__digest": "sha256:" + "b" * 64}, "spec.artifact.digest can't be edited"),
    "digest taken away": ({"artifact__digest": None}, "spec.artifact.digest can't be edited"),
}


@pytest.fixture
def apply(crd: None, kubectl: Callable[..., str]) -> Callable[[dict[str, Any]], str]:
    return lambda value: kubectl("apply", "-f", "-", given=json.dumps(value))


def test_each_rule_accepts_what_is_right(apply, kubectl) -> None:
    for what, changes in ACCEPTED.items():
        apply(model_version(**changes))
        kubectl("delete", "mv", "m-1")
        assert what


def test_each_rule_refuses_what_is_wrong_and_says_so(apply) -> None:
    for what, (changes, said) in REFUSED.items():
        with pytest.raises(CommandError) as refusal:
            apply(model_version(**changes))
        assert said in str(refusal.value), what


def test_what_identifies_a_version_cannot_be_edited_and_the_rest_can(apply, kubectl) -> None:
    apply(model_version())
    for what, (changes, said) in EDITS.items():
        with pytest.raises(CommandError) as refusal:
            apply(model_version(**changes))
        assert said in str(refusal.value), what
    apply(model_version(state="Retired", rollout__keepPrevious="1h", verify__samples={"configMap": "accept"}))
    assert json.loads(kubectl("get", "mv", "m-1", "--output=json"))["metadata"]["generation"] == 2


def test_a_digest_cannot_be_added_later(apply) -> None:
    apply(model_version(artifact__digest=None))
    with pytest.raises(CommandError, match=r"spec\.artifact\.digest can't be edited"):
        apply(model_version())


def test_defaults_are_filled_in_and_people_find_their_way(apply, kubectl) -> None:
    apply(model_version())
    spec = json.loads(kubectl("get", "modelversions", "m-1", "--output=json"))["spec"]
    assert spec["state"] == "Active"
    assert spec["rollout"] == {"mode": "InPlace", "keepPrevious": "10m", "progressDeadline": "10m"}
    assert spec["verify"] == {"signatureChange": "Refuse"}
    assert "m-1" in kubectl("get", "windlass")
    head = kubectl("get", "mv").splitlines()[0].split()
    assert head == ["NAME", "SERVER", "MODEL", "VERSION", "PHASE", "SERVING", "PREPARED", "REPLICAS", "AGE"]
    assert kubectl("get", "mv", "--field-selector=spec.server=dogs", "--output=name") == ""
    explained = " ".join(kubectl("explain", "modelversion.spec.rollout").split())
    assert "How long the version before stays resident after a commit, as the way back." in explained
    assert "GROUP: windlass.dev" in explained


def test_status_is_written_apart_from_spec(apply, kubectl) -> None:
    apply(model_version())
    kubectl("patch", "mv", "m-1", "--type=merge", '--patch={"status": {"phase": "Serving"}}')
    assert "status" not in json.loads(kubectl("get", "mv", "m-1", "--output=json"))
    kubectl("patch", "mv", "m-1", "--subresource=status", "--type=merge", '--patch={"status": {"phase": "Serving"}}')
    assert kubectl("get", "mv", "m-1").splitlines()[1].split()[4] == "Serving"
