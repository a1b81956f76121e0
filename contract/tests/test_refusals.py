"""What is refused, and in which words: the field as it was written, what stands there, and the remedy."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from windlass_contract.decision import Decision
from windlass_contract.document import Document, DocumentError
from windlass_contract.health import HealthTimings
from windlass_contract.histogram import LatencyHistogram
from windlass_contract.identifiers import seconds, thousandths
from windlass_contract.manifest import MAX_FILE_BYTES, Manifest
from windlass_contract.model_version import ModelVersion
from windlass_contract.plan import ModelPlan, ServingPlan
from windlass_contract.report import ServingReport
from windlass_contract.samples import AcceptanceSamples

DIGEST = "sha256:" + "0" * 64
SHA = "0" * 64
ABSENT = object()


def change(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with `path` (dots and indexes) set; ABSENT takes it away."""
    changed = copy.deepcopy(document)
    node: Any = changed
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
    if value is ABSENT:
        del node[last]
    else:
        node[last] = value
    return changed


def said(kind: type[Document], value: Any) -> list[str]:
    with pytest.raises(DocumentError) as raised:
        kind.parse(value, "digits.yaml")
    assert str(raised.value).startswith("digits.yaml: ")
    return [str(problem) for problem in raised.value.problems]


MODEL_VERSION: dict[str, Any] = {
    "apiVersion": "windlass.dev/v1alpha1",
    "kind": "ModelVersion",
    "metadata": {"name": "digits-2"},
    "spec": {
        "server": "digits",
        "model": "digits",
        "version": 2,
        "artifact": {"uri": "volume://", "digest": DIGEST},
        "rollout": {"steps": [{"weight": "10%", "duration": "5m"}], "gates": {"minRequests": 1}, "keepPrevious": "10m"},
        "verify": {"samples": {"file": "accept.json", "minScore": "95%"}},
        "state": "Active",
    },
}

NAME = "write at most 63 letters, digits, '.', '_' and '-', with a letter or digit at both ends, as in cats-dogs"
LABEL = "write at most 63 small letters, digits and '-', with a letter or digit at both ends, as in cats-dogs"
DURATION = "write whole hours, minutes and seconds, as in 10m or 1h30m"
SHARE = "write a share from 0% to 100% with at most one decimal, as in 25% or 0.5%"
HEX = "write sha256: and 64 hexadecimal digits in small letters; windlass pack prints a version's digest"
WHOLE = "a whole number is expected"
MAPPING = "fields with values (a mapping) are expected"
SPELLING = "there is no such field here; check its spelling and indentation"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("apiVersion", "windlass.dev/v1", "apiVersion is \"windlass.dev/v1\": write 'windlass.dev/v1alpha1'"),
        ("kind", ABSENT, "kind: it is missing and has to be given"),
        ("kind", "modelversion", "kind is \"modelversion\": write 'ModelVersion'"),
        ("metadata", ABSENT, "metadata: it is missing and has to be given"),
        ("metadata", [], f"metadata is []: {MAPPING}"),
        (
            "metadata.name",
            "Digits",
            "metadata.name is \"Digits\": write at most 253 small letters, digits, '-' and '.'",
        ),
        ("metadata.namespace", "a.b", f'metadata.namespace is "a.b": {LABEL}'),
        ("metadata.labels", {"a": 1}, "metadata.labels.a is 1: text is expected; put it in quotes"),
        ("metadata.labels", {"a/b": True}, 'metadata.labels["a/b"] is true: text is expected; put it in quotes'),
        ("spec", None, f"spec is null: {MAPPING}"),
        ("spec.server", "my_server", f'spec.server is "my_server": {LABEL}'),
        ("spec.server", "a" * 64, f'spec.server is "{"a" * 58}…: {LABEL}'),
        ("spec.server", "digits\n", f'spec.server is "digits\\n": {LABEL}'),
        ("spec.model", "a/b", f'spec.model is "a/b": {NAME}'),
        ("spec.model", "..", f'spec.model is "..": {NAME}'),
        ("spec.model", "", f'spec.model is "": {NAME}'),
        ("spec.model", "a:b", f'spec.model is "a:b": {NAME}'),
        ("spec.model", "modèle", f'spec.model is "modèle": {NAME}'),
        ("spec.model", 7, "spec.model is 7: text is expected; put it in quotes"),
        ("spec.model", {}, "spec.model is {}: text is expected"),
        ("spec.version", "2", f'spec.version is "2": {WHOLE}; take the quotes away'),
        ("spec.version", "v2", f'spec.version is "v2": {WHOLE}'),
        ("spec.version", 2.0, f"spec.version is 2.0: {WHOLE}"),
        ("spec.version", True, f"spec.version is true: {WHOLE}"),
        ("spec.version", -1, "spec.version is -1: at least 0 is expected"),
        ("spec.version", 2**53, "spec.version is 9007199254740992: at most 9007199254740991 is expected"),
        ("spec.artifact.uri", "/models", 'spec.artifact.uri is "/models": write where the files are, as in volume://'),
        ("spec.artifact.digest", "sha256:ABC", f'spec.artifact.digest is "sha256:ABC": {HEX}'),
        ("spec.artifact.digest", SHA, f'spec.artifact.digest is "{SHA[:58]}…: {HEX}'),
        ("spec.artifact.digset", DIGEST, f'spec.artifact.digset is "{DIGEST[:58]}…: {SPELLING}'),
        ("spec.rollout.mode", "inplace", "spec.rollout.mode is \"inplace\": write 'InPlace' or 'Restart'"),
        ("spec.rollout.steps", {}, "spec.rollout.steps is {}: a list is expected"),
        ("spec.rollout.steps", [{}] * 65, "at most 64 entries are allowed"),
        ("spec.rollout.steps.0.weight", "101%", f'spec.rollout.steps[0].weight is "101%": {SHARE}'),
        ("spec.rollout.steps.0.weight", "0.55%", f'spec.rollout.steps[0].weight is "0.55%": {SHARE}'),
        ("spec.rollout.steps.0.weight", "-1%", f'spec.rollout.steps[0].weight is "-1%": {SHARE}'),
        ("spec.rollout.steps.0.weight", "10", f'spec.rollout.steps[0].weight is "10": {SHARE}'),
        ("spec.rollout.steps.0.weight", 0.1, "spec.rollout.steps[0].weight is 0.1: text is expected; put it in quotes"),
        ("spec.rollout.steps.0.duration", "5 minutes", f'spec.rollout.steps[0].duration is "5 minutes": {DURATION}'),
        ("spec.rollout.steps.0.duration", "1.5h", f'spec.rollout.steps[0].duration is "1.5h": {DURATION}'),
        ("spec.rollout.steps.0.duration", "5", f'spec.rollout.steps[0].duration is "5": {DURATION}'),
        ("spec.rollout.steps.0.duration", "30s1m", f'spec.rollout.steps[0].duration is "30s1m": {DURATION}'),
        ("spec.rollout.steps.0.duration", "", 'spec.rollout.steps[0].duration is "": '),
        ("spec.rollout.steps.0.shadow", "5%", "spec.rollout.steps[0]: a step has either shadow or weight, not both"),
        (
            "spec.rollout.steps.0.pause",
            {},
            "spec.rollout.steps[0]: a step ends after a duration or by approval (pause)",
        ),
        ("spec.rollout.steps", [{"duration": "5m"}], "spec.rollout.steps[0]: a step has a shadow, a weight or a pause"),
        ("spec.rollout.gates.minRequests", 0, "spec.rollout.gates.minRequests is 0: at least 1 is expected"),
        ("spec.rollout.gates.minRequests", True, f"spec.rollout.gates.minRequests is true: {WHOLE}"),
        (
            "spec.rollout.gates.maxLatencyRatio",
            0.9,
            "spec.rollout.gates.maxLatencyRatio is 0.9: at least 1 is expected",
        ),
        ("spec.rollout.gates.maxLatencyRatio", float("inf"), "a finite number is expected"),
        (
            "spec.verify.samples.file",
            "../a",
            'spec.verify.samples.file is "../a": write the name of a file beside this',
        ),
        (
            "spec.verify.samples.configMap",
            "x",
            "spec.verify.samples: exactly one of configMap, file and uri is expected",
        ),
        ("spec.verify.samples.file", ABSENT, "spec.verify.samples: exactly one of configMap, file and uri is expected"),
        ("spec.verify.samples", {"uri": "s3://a"}, "spec.verify.samples: samples from a uri need a digest"),
        ("spec.state", "retired", "spec.state is \"retired\": write 'Active' or 'Retired'"),
        ("status", {}, f"status is {{}}: {SPELLING}"),
    ],
)
def test_a_model_version_is_refused_in_words_that_help(path: str, value: Any, message: str) -> None:
    ModelVersion.parse(MODEL_VERSION, "digits.yaml")
    (problem,) = said(ModelVersion, change(MODEL_VERSION, path, value))
    assert problem.startswith(message) or message in problem.partition(": ")[2]


@pytest.mark.parametrize("value", [None, [], "text", 5, True])
def test_what_is_no_document_at_all_is_refused(value: Any) -> None:
    (problem,) = said(ModelVersion, value)
    assert problem.startswith("the document is ")
    assert problem.endswith(MAPPING)


def test_every_problem_is_named_at_once() -> None:
    value = change(change(MODEL_VERSION, "spec.version", "2"), "spec.sever", "x")
    assert len(said(ModelVersion, value)) == 2


def test_of_very_many_problems_the_first_are_named_and_the_rest_counted() -> None:
    value = change(MODEL_VERSION, "metadata.labels", {f"k{number}": number for number in range(5000)})
    with pytest.raises(DocumentError, match=r"; and 4980 more$"):
        ModelVersion.parse(value, "digits.yaml")


SIGNATURE = {
    "inputs": {"x": {"datatype": "FP32", "shape": [-1]}},
    "outputs": {"y": {"datatype": "FP32", "shape": None}},
}
MANIFEST: dict[str, Any] = {
    "model": "digits",
    "version": 2,
    "format": "SavedModel",
    "files": [{"path": "a/b", "size": 1, "sha256": SHA}, {"path": "c", "size": 1, "sha256": SHA}],
    "signatures": {"serving_default": SIGNATURE},
}
INSIDE = "a path inside the version's folder is expected, without '.', '..' and backslashes"


def listed(*paths: str) -> list[dict[str, Any]]:
    return [{"path": path, "size": 1, "sha256": SHA} for path in paths]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("files", [], "files is []: at least 1 entry is expected"),
        ("files", listed("c", "a"), "files: files are listed once each, sorted by path"),
        ("files", listed("a", "a"), "files: files are listed once each, sorted by path"),
        ("files", listed("a", "a/b"), "files: 'a' can't be a file and a folder"),
        ("files", listed("manifest.json"), 'files[0].path is "manifest.json": the manifest doesn\'t list itself'),
        ("files.0.path", "../x", f'files[0].path is "../x": {INSIDE}'),
        ("files.0.path", "/x", f'files[0].path is "/x": {INSIDE}'),
        ("files.0.path", "a\\b", f'files[0].path is "a\\\\b": {INSIDE}'),
        ("files.0.path", "a/./b", f'files[0].path is "a/./b": {INSIDE}'),
        ("files.0.path", "a\x7f", "files[0].path is "),
        ("files.0.path", "a" * 1025, "at most 1024 characters are allowed"),
        ("files.0.size", -1, "files[0].size is -1: at least 0 is expected"),
        ("files.0.size", MAX_FILE_BYTES + 1, f"at most {MAX_FILE_BYTES} is expected"),
        ("files.0.size", "1", f'files[0].size is "1": {WHOLE}; take the quotes away'),
        ("files.0.sha256", "A" * 64, "write 64 hexadecimal digits in small letters"),
        ("format", "keras", "format is \"keras\": write 'SavedModel' or 'TFLite'"),
        ("signatures", {}, "signatures is {}: at least 1 entry is expected"),
        ("signatures.serving_default.outputs", {}, "signatures.serving_default.outputs is {}: at least 1 entry"),
        ("signatures.serving_default.method", "x", "write 'predict', 'classify' or 'regress'"),
        ("signatures.serving_default.inputs.x.shape", [-2], "inputs.x.shape[0] is -2: at least -1 is expected"),
        ("signatures.serving_default.inputs.x.shape", [2**31], "at most 2147483647 is expected"),
        ("signatures.serving_default.inputs.x.shape", [1] * 17, "at most 16 entries are allowed"),
        ("signatures.serving_default.inputs.x.shape", ABSENT, "inputs.x.shape: it is missing and has to be given"),
        ("signatures.serving_default.inputs.x.datatype", "float32", "inputs.x.datatype is \"float32\": write 'BOOL'"),
        ("warmupBatchSizes", [0], "warmupBatchSizes[0] is 0: at least 1 is expected"),
        ("warmupBatchSizes", [4097], "warmupBatchSizes[0] is 4097: at most 4096 is expected"),
        ("parity", [{"path": "x.npz"}], "parity: 'x.npz' is not among the files"),
        ("parity", [{"path": "c", "signature": "other"}], "parity: there is no signature 'other'"),
        ("parity", [{"path": "c", "rtol": -1}], "parity[0].rtol is -1: at least 0 is expected"),
        ("image", {"input": "z", "width": 8, "height": 8}, "image: signature 'serving_default' has no input 'z'"),
        ("image", {"input": "x", "width": 9000, "height": 8}, "image.width is 9000: at most 8192 is expected"),
        ("image", {"input": "x", "width": 8, "height": 8, "channels": 2}, "image.channels is 2: write 1, 3 or 4"),
        ("image", {"input": "x", "width": 8, "height": 8, "scale": "1/255"}, 'image.scale is "1/255": a number is'),
        ("memoryBytes", -1, "memoryBytes is -1: at least 0 is expected"),
        ("kind", "Model", "kind is \"Model\": write 'Manifest'"),
    ],
)
def test_a_manifest_is_refused(path: str, value: Any, message: str) -> None:
    Manifest.parse(MANIFEST, "manifest.json")
    (problem,) = said(Manifest, change(MANIFEST, path, value))
    assert message in problem.removeprefix("the document: ")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"versions": [{"version": 1, "digest": DIGEST}] * 2}, "a version is planned once"),
        (
            {"versions": [{"version": 1, "digest": DIGEST, "weight": 999}]},
            "the weights sum up to 1000 or 0, not to 999",
        ),
        ({"committed": 1}, "committed version 1 isn't among the versions to hold"),
        ({"previous": 1}, "previous version 1 isn't among the versions to hold"),
        ({"candidate": 1}, "candidate version 1 isn't among the versions to hold"),
        ({"versions": [{"version": n, "digest": DIGEST} for n in range(9)]}, "at most 8 entries are allowed"),
        ({"versions": [{"version": 1, "digest": DIGEST, "weight": 1001}]}, "versions[0].weight is 1001: at most 1000"),
        *(
            ({"versions": [{"version": 1, "digest": DIGEST, "path": path}]}, "a path inside the folder of models")
            for path in ("/etc", "../x", "a/../../x", "a\0b", "")
        ),
        ({"versions": [{"version": 1, "digest": DIGEST, "path": "x" * 1025}]}, "at most 1024 characters are allowed"),
        ({"labels": {"a b": 1}}, f'labels["a b"] is "a b": as a name, {NAME}'),
        ({"labels": {"stable": "1"}}, f'labels.stable is "1": {WHOLE}; take the quotes away'),
        ({"leaseSeconds": 0}, "leaseSeconds is 0: more than 0 is expected"),
        ({"leaseSeconds": "soon"}, 'leaseSeconds is "soon": a number is expected'),
        ({"pinned": {"x": DIGEST}}, f'pinned.x is "x": as a name, {WHOLE}'),
        ({"breaker": {"minRequests": 0}}, "breaker.minRequests is 0: at least 1 is expected"),
        ({"step": -1}, "step is -1: at least 0 is expected"),
    ],
)
def test_a_plan_of_a_model_is_refused(model: dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in said(ModelPlan, model))


@pytest.mark.parametrize("epoch", [-1, 2**53, "x", None, 1.5])
def test_an_epoch_is_a_whole_number_that_every_reader_can_hold(epoch: Any) -> None:
    assert any(
        problem.startswith("epoch is ")
        for problem in said(ServingPlan, {"server": "s", "epoch": epoch, "digest": DIGEST})
    )


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (LatencyHistogram, {"buckets": {"-1": 1}}, "as a name, at least 0 is expected"),
        (LatencyHistogram, {"buckets": {"641": 1}}, "as a name, at most 640 is expected"),
        (LatencyHistogram, {"buckets": {"1": -1}}, 'buckets["1"] is -1: at least 0 is expected'),
        (HealthTimings, {"interval": 0}, "interval is 0: more than 0 is expected"),
        (HealthTimings, {"retries": 0}, "retries is 0: at least 1 is expected"),
        (ServingReport, {"instance": "XYZ"}, "instance is \"XYZ\": write 8 to 64 hexadecimal digits and '-'"),
        (ServingReport, {"replica": ""}, 'replica is "": at least 1 character is expected'),
        (ServingReport, {"sequence": -1}, "sequence is -1: at least 0 is expected"),
        (ServingReport, {"ready": "maybe"}, 'ready is "maybe": true or false is expected'),
        (AcceptanceSamples, {"samples": []}, "samples is []: at least 1 entry is expected"),
        (
            AcceptanceSamples,
            {"samples": [{"inputs": {}, "expect": {}}]},
            "exactly one of classIndex, className and values",
        ),
        (
            AcceptanceSamples,
            {"samples": [{"inputs": {}, "expect": {"classIndex": 1, "className": "a"}}]},
            "samples[0].expect: exactly one of classIndex, className and values is expected",
        ),
        (
            AcceptanceSamples,
            {"samples": [{"inputs": {}, "expect": {"values": [1], "minScore": 0.5}}]},
            "samples[0].expect: minScore goes with classIndex or className",
        ),
        (
            AcceptanceSamples,
            {"samples": [{"inputs": {}, "expect": {"classIndex": -1}}]},
            "classIndex is -1: at least 0",
        ),
        (
            AcceptanceSamples,
            {"samples": [{"inputs": [], "expect": {"values": 0}}]},
            f"samples[0].inputs is []: {MAPPING}",
        ),
        (Decision, {"spec": {"id": "A b"}}, f'spec.id is "A b": {LABEL}'),
        (
            Decision,
            {"spec": {"action": "aprove"}},
            "spec.action is \"aprove\": write 'approve', 'pause', 'resume', 'undo'",
        ),
        (Decision, {"spec": {"reason": "x" * 1025}}, "at most 1024 characters are allowed"),
        (Decision, {"spec": {"step": "1"}}, f'spec.step is "1": {WHOLE}; take the quotes away'),
    ],
)
def test_other_documents_are_refused(kind: type[Document], value: Any, message: str) -> None:
    assert any(message in problem for problem in said(kind, value))


@pytest.mark.parametrize(
    ("text", "length"),
    [("0s", 0), ("45s", 45), ("10m", 600), ("1h30m", 5400), ("1h2m3s", 3723), ("999999h", 3599996400)],
)
def test_durations_in_seconds(text: str, length: int) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "5", "m", "1d", "1m1h", "-1s", "1.5h", "1h 2m", "1s\n", "٣s!"])
def test_what_is_no_duration_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(ValueError, match="write whole hours, minutes and seconds, as in 10m or 1h30m"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("0%", 0),
        ("0.1%", 1),
        ("0.5%", 5),
        ("1%", 10),
        ("09%", 90),
        ("33.3%", 333),
        ("99.9%", 999),
        ("100%", 1000),
        ("100.0%", 1000),
    ],
)
def test_shares_in_thousandths(text: str, share: int) -> None:
    assert thousandths(text) == share
