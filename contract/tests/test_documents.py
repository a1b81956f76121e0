"""Documents go through JSON and through older readers unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from windlass_contract.canonical import digest_of
from windlass_contract.control import PlanAnswer, ReportAnswer
from windlass_contract.decision import Decision
from windlass_contract.document import Document, DocumentError, StrictDocument
from windlass_contract.failures import VERDICTS, Failure, Gate, Reason
from windlass_contract.health import Health, HealthTimings
from windlass_contract.manifest import Manifest
from windlass_contract.model_version import ModelVersion, ModelVersionStatus
from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.record import ServerState
from windlass_contract.report import ServingReport
from windlass_contract.samples import AcceptanceSamples
from windlass_contract.schemas import DOCUMENTS

D1, D2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64
SIGNATURE = {
    "inputs": {"x": {"datatype": "FP32", "shape": [-1, 8]}, "any": {"datatype": "BYTES", "shape": None}},
    "outputs": {"y": {"datatype": "FP32", "shape": [-1, 10]}},
    "method": "predict",
}
MODEL_PLAN = {
    "committed": 1,
    "previous": None,
    "candidate": 2,
    "versions": [
        {"version": 1, "digest": D1, "weight": 995, "path": "old/1"},
        {"version": 2, "digest": D2, "weight": 5, "addressable": False, "samples": {"digest": D1, "minScore": 950}},
    ],
    "labels": {"stable": 1},
    "shadow": {"version": 2, "share": 1000},
    "breaker": {"minRequests": 5},
    "leaseSeconds": 2.5,
    "quarantine": [{"version": 3, "digest": D2, "contentDigest": D1, "reason": "LoadFailed", "message": "bad"}],
    "holds": [{"version": 4, "digest": D2, "reason": "Undone"}],
    "pinned": {"1": D1, "10": D2, "9": D1},
    "decisions": ["a", "b"],
    "step": 1,
    "paused": True,
}


def plan(models: dict[str, Any], epoch: int = 7, **extra: Any) -> dict[str, Any]:
    content = {"server": "digits", "epoch": epoch, "models": models, **extra}
    return {**content, "digest": digest_of(content)}


PLAN = plan({"digits": MODEL_PLAN, "Other_2.x": {}})
FAILURE = {"gate": "Load", "reason": "LoadFailed", "message": "it failed", "file": "saved_model.pb"}
COUNTERS = {"requests": 5, "errors": 1, "fallbacks": 0, "latency": {"buckets": {"3": 2, "20": 3}}}
EXAMPLES: dict[type[Document], dict[str, Any]] = {
    AcceptanceSamples: {
        "signature": "s",
        "samples": [
            {"name": "a", "inputs": {"x": [[1, 2.5], [None, "b"]]}, "expect": {"classIndex": 3, "minScore": 0.5}},
            {"inputs": {}, "expect": {"values": [1, 2], "rtol": 0, "atol": 0.1, "output": "y"}},
        ],
    },
    Decision: {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "Decision",
        "metadata": {"name": "digits-2"},
        "spec": {"id": "a1", "action": "approve", "server": "s", "model": "m", "version": 2, "digest": D1, "step": 0},
    },
    Health: {
        "status": "degraded",
        "database": "unavailable",
        "model": "ok",
        "timestamp": "2026-01-01T00:00:00Z",
        "models": {"digits": {"1": "Prepared"}},
    },
    HealthTimings: {"interval": 5.5},
    Manifest: {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "Manifest",
        "model": "digits",
        "version": 2,
        "format": "TFLite",
        "files": [
            {"path": "model.tflite", "size": 5, "sha256": "0" * 64},
            {"path": "p.npz", "size": 5, "sha256": "0" * 64},
        ],
        "signatures": {"serving_default": SIGNATURE},
        "parity": [{"path": "p.npz"}],
        "image": {"input": "x", "width": 8, "height": 8, "channels": 1, "scale": 0.0625},
        "classes": ["zero"],
        "memoryBytes": 1,
    },
    ModelVersion: {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": "digits-2", "labels": {"a": "b"}},
        "spec": {
            "server": "digits",
            "model": "digits",
            "version": 2,
            "artifact": {"uri": "volume://", "digest": D1},
            "rollout": {
                "steps": [{"shadow": "100%", "duration": "5m"}, {"weight": "0.5%", "pause": {}}],
                "gates": {"minRequests": 200, "maxLatencyRatio": 1.2},
            },
            "verify": {"samples": {"file": "accept.json", "minScore": "95%"}},
        },
    },
    ModelVersionStatus: {
        "phase": "Serving",
        "conditions": [{"type": "Ready", "status": "True", "reason": "Committed"}],
        "evidence": [{"gate": "Load", "result": "Passed"}],
    },
    PlanAnswer: {"plan": PLAN},
    ReportAnswer: {"epoch": 3, "renewed": ["digits"], "reportSeconds": 2.5},
    ServerState: {
        "server": "digits",
        "plan": PLAN,
        "record": {
            "server": "digits",
            "models": {
                "digits": {
                    "committed": {"version": 1, "digest": D1, "signatures": {"serving_default": SIGNATURE}},
                    "rollout": {
                        "candidate": {"version": 2, "digest": D2},
                        "phase": "Stepping",
                        "evidence": {"2": COUNTERS, "10": COUNTERS},
                    },
                    "verdicts": [{"version": 1, "digest": D1, "outcome": "Committed", "failure": FAILURE}],
                    "pinned": {"1": D1},
                }
            },
        },
    },
    ServingPlan: PLAN,
    ServingReport: {
        "server": "digits",
        "replica": "pod-1",
        "instance": "0123abcd-0",
        "sequence": 9,
        "plan": PLAN,
        "models": {
            "digits": {
                "versions": [
                    {"version": 1, "state": "Prepared", "counters": COUNTERS, "progress": 1},
                    {"version": 2, "state": "Failed", "failure": FAILURE, "gates": [{"gate": "Load", "passed": False}]},
                ],
                "serving": {"1": 1000},
            }
        },
    },
}


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_there_is_an_example_of_each_document() -> None:
    assert set(EXAMPLES) == set(DOCUMENTS)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_reading_and_writing_changes_nothing(kind: type[Document]) -> None:
    document = kind.parse(EXAMPLES[kind], "file")
    assert document.to_dict() == EXAMPLES[kind]
    assert kind.parse(through_json(document.to_dict()), "file") == document
    assert kind.parse_json(json.dumps(document.to_dict()), "file") == document
    assert json.loads(document.to_json()) == EXAMPLES[kind]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_python_names_are_understood_too(kind: type[Document]) -> None:
    document = kind.parse(EXAMPLES[kind], "file")
    assert kind.parse(document.model_dump(exclude_unset=True), "file") == document


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_document_does_not_change(kind: type[Document]) -> None:
    document = kind.parse(EXAMPLES[kind], "file")
    with pytest.raises(ValidationError, match="frozen"):
        setattr(document, next(iter(kind.model_fields)), None)


def documents_in(value: object, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], type[BaseModel]]]:
    """Paths (as in the JSON) of all documents inside a document, itself included."""
    found: list[tuple[tuple[Any, ...], type[BaseModel]]] = []
    if isinstance(value, BaseModel):
        found.append((path, type(value)))
        for name in value.model_fields_set & type(value).model_fields.keys():
            found += documents_in(getattr(value, name), (*path, type(value).model_fields[name].alias))
    elif isinstance(value, dict):
        for key, each in value.items():
            found += documents_in(each, (*path, str(key)))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            found += documents_in(each, (*path, index))
    return found


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


NEWER = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=6,
)
NEW_NAMES = st.from_regex(r"new[A-Za-z0-9_]{0,6}", fullmatch=True)
PASSED_ON = [kind for kind in EXAMPLES if not issubclass(kind, StrictDocument)]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_fields_of_a_newer_release_are_passed_on_wherever_they_are(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(PASSED_ON))
    value = through_json(EXAMPLES[kind])
    places = [path for path, each in documents_in(kind.parse(value, "f")) if not issubclass(each, StrictDocument)]
    for path in data.draw(st.lists(st.sampled_from(places), max_size=4)):
        at(value, path).update(data.draw(st.dictionaries(NEW_NAMES, NEWER, max_size=3)))
    for path, each in documents_in(kind.parse(EXAMPLES[kind], "f")):
        if each is ServingPlan:  # Its writer has signed what it added.
            signed = at(value, path)
            signed["digest"] = digest_of({key: part for key, part in signed.items() if key != "digest"})
    value = through_json(value)
    read = kind.parse(value, "file")
    assert read.to_dict() == value
    assert digest_of(read.to_dict()) == digest_of(value)
    assert kind.parse(read.to_dict(), "file").to_dict() == value


@settings(deadline=None)
@given(models=st.dictionaries(NEW_NAMES, NEWER, max_size=3), version=st.dictionaries(NEW_NAMES, NEWER, max_size=3))
def test_an_older_reader_reemits_a_newer_plan_with_its_digest(models: dict[str, Any], version: dict[str, Any]) -> None:
    newer = {**MODEL_PLAN, **models, "versions": [{**MODEL_PLAN["versions"][0], "weight": 1000, **version}]}
    newer |= {"candidate": None, "shadow": None}
    written = plan({"digits": newer}, signedBy="a newer release")
    read = ServingPlan.parse(through_json(written), "operator")
    report = ServingReport(server="digits", replica="r", instance="00000000", sequence=1, plan=read)
    returned = ServingReport.parse(through_json(report.to_dict()), "replica")
    assert returned.plan is not None
    assert returned.plan.to_dict() == through_json(written)
    assert returned.plan.digest == written["digest"]


@pytest.mark.parametrize("kind", [kind for kind in EXAMPLES if issubclass(kind, StrictDocument)])
def test_people_s_documents_refuse_unknown_fields_wherever_they_are(kind: type[Document]) -> None:
    for path, _ in documents_in(kind.parse(EXAMPLES[kind], "file")):
        value = through_json(EXAMPLES[kind])
        at(value, path)["unknwon"] = 1
        with pytest.raises(DocumentError, match="unknwon is 1: there is no such field here; check its spelling"):
            kind.parse(value, "file")


WEIGHTS = st.sampled_from([(1000,), (0,), (0, 1000), (995, 5), (0, 0), (1, 999)])


@settings(deadline=None)
@given(weights=WEIGHTS, epoch=st.integers(0, 2**53 - 1), lease=st.none() | st.integers(1, 99) | st.floats(0.001, 1e6))
def test_a_plan_that_was_built_is_read_back_with_its_digest(weights: Any, epoch: int, lease: Any) -> None:
    versions = [PlannedVersion(version=n, digest=D1, weight=weight) for n, weight in enumerate(weights)]
    model = ModelPlan(committed=0, versions=versions, lease_seconds=lease, pinned={0: D1, 10: D2, 9: D1})
    built = ServingPlan.build("digits", epoch, {"digits": model})
    read = ServingPlan.parse(through_json(built.to_dict()), "file")
    assert read == built
    assert read.digest == built.digest == ServingPlan.build("digits", epoch, dict(read.models)).digest
    assert read.has_traffic == (sum(weights) > 0)


def test_defaults_and_the_same_values_given_are_two_digests_and_both_stay() -> None:
    """The digest goes by what was written, not by what it means to this release."""
    bare, explicit = PlannedVersion(version=1, digest=D1), PlannedVersion(version=1, digest=D1, weight=0)
    assert bare == explicit
    plans = [ServingPlan.build("s", 1, {"m": ModelPlan(versions=[each])}) for each in (bare, explicit)]
    assert plans[0].digest != plans[1].digest
    for each in plans:
        assert ServingPlan.parse(through_json(each.to_dict()), "file").to_dict() == each.to_dict()


@pytest.mark.parametrize("lease", [5, 5.0])
def test_a_whole_number_and_a_float_are_one_digest(lease: float) -> None:
    assert (
        ServingPlan.parse(plan({"m": {"leaseSeconds": lease}}), "file").digest
        == plan({"m": {"leaseSeconds": 5}})["digest"]
    )


def test_versions_as_keys_are_numbers_in_python_and_text_in_json() -> None:
    model = ModelPlan(pinned={10: D1, 9: D2})
    assert model.to_dict() == {"pinned": {"10": D1, "9": D2}}
    assert ModelPlan.parse({"pinned": {"10": D1, "9": D2}}, "file") == model
    for key in ("010", "1.0", "-1", " 1", "x", "", str(2**53), True, 1.5):
        with pytest.raises(DocumentError):
            ModelPlan.parse({"pinned": {key: D1}}, "file")


def test_a_changed_copy_writes_what_was_changed_and_what_was_there() -> None:
    model = ModelPlan.parse({**MODEL_PLAN, "newer": {"x": 1}}, "file")
    changed = model.model_copy(update={"step": 2, "paused": False})
    assert changed.to_dict() == {**MODEL_PLAN, "newer": {"x": 1}, "step": 2, "paused": False}
    bare = ModelPlan().model_copy(update={"step": 0})
    assert bare.to_dict() == {"step": 0}
    assert model.to_dict() == {**MODEL_PLAN, "newer": {"x": 1}}


def test_a_plan_copied_with_another_epoch_is_no_plan() -> None:
    read = ServingPlan.parse(PLAN, "file")
    with pytest.raises(DocumentError, match="it was damaged or edited by hand"):
        ServingPlan.parse(read.model_copy(update={"epoch": 8}).to_dict(), "file")


@settings(deadline=None)
@given(st.sampled_from(["epoch", "server", "models", "new"]))
def test_every_part_of_a_plan_is_under_its_digest(part: str) -> None:
    other = {"epoch": 8, "server": "other", "models": {}, "new": 1}[part]
    with pytest.raises(DocumentError, match="the plan's digest is sha256:"):
        ServingPlan.parse({**PLAN, part: other}, "file")


@pytest.mark.parametrize("reason", Reason)
def test_only_what_the_artifact_did_is_a_verdict(reason: Reason) -> None:
    verdicts = {
        "ForbiddenOperation", "LoadFailed", "WorkerCrashed", "WarmUpFailed", "ParityFailed", "AcceptanceFailed",
        "SignatureMismatch", "SignatureChanged", "ErrorRateExceeded",
    }  # fmt: skip
    assert Failure(gate=Gate.LOAD, reason=reason, message="m").is_verdict == (reason.value in verdicts)
    assert {each.value for each in VERDICTS} == verdicts


def test_a_report_says_what_it_knows_of_a_version() -> None:
    report = ServingReport.parse(EXAMPLES[ServingReport], "file")
    found = report.version("digits", 2)
    assert found is not None
    assert found.failure is not None
    assert report.version("digits", 3) is None
    assert report.version("other", 1) is None
    assert report.plan is not None
    assert report.plan.has_traffic
    assert report.plan.models["digits"].planned(2) is not None
    assert report.plan.models["digits"].planned(9) is None


def test_replicas_of_a_revision_follow_its_entry_and_all_others_the_rest() -> None:
    old, new = PlannedVersion(version=1, digest=D1, weight=1000), PlannedVersion(version=2, digest=D2, weight=1000)
    cats = ModelPlan(committed=1, versions=[old], labels={"stable": 1, "mine": 7}, revisions={"cats-2": new})
    dogs = ModelPlan(committed=1, versions=[old])
    built = ServingPlan.build("s", 5, {"cats": cats, "dogs": dogs})
    read = ServingPlan.parse(through_json(built.to_dict()), "file")
    assert read.of_revision("") == read.of_revision("another") == read
    theirs = read.of_revision("cats-2")
    assert (theirs.epoch, theirs.digest) == (read.epoch, read.digest)
    assert theirs.models["dogs"] == dogs
    (planned,) = theirs.models["cats"].versions
    assert (planned.version, planned.digest, planned.weight) == (2, D2, 1000)
    assert theirs.models["cats"].committed == 2
    assert theirs.models["cats"].labels == {"stable": 2}
    waits = cats.model_copy(update={"revisions": {"cats-2": PlannedVersion(version=2, digest=D2)}}).of_revision(
        "cats-2"
    )
    assert (waits.candidate, waits.committed, waits.labels) == (2, None, {})
