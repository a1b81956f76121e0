"""Canonical JSON and digests. The sums written down here may never change: artifacts are known by them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_contract.canonical import canonical_json, digest_of
from windlass_contract.manifest import FileEntry, Manifest, content_digest
from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan

SHA = "ab" * 32
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ({}, b"{}"),
        ({"b": 1, "a": [True, None, "x"]}, b'{"a":[true,null,"x"],"b":1}'),
        ({"ü": "€"}, '{"ü":"€"}'.encode()),
        ({"10": 1, "9": 2}, b'{"10":1,"9":2}'),
        ({10: 1, 9: 2}, b'{"10":1,"9":2}'),
        ('\u2028\x00"\\/', b'"\xe2\x80\xa8\\u0000\\"\\\\/"'),
        (1.0, b"1"),
        (-0.0, b"0"),
        (0.1, b"0.1"),
        (1e-3, b"0.001"),
        (2.0**53, b"9007199254740992.0"),
        (2**70, b"1180591620717411303424"),
        ((1, 2), b"[1,2]"),
        ("\ud800", b'"\xed\xa0\x80"'),
    ],
)
def test_canonical_bytes(value: Any, encoded: bytes) -> None:
    assert canonical_json(value) == encoded


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], {"a": math.nan}])
def test_numbers_that_json_lacks_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(value)


@pytest.mark.parametrize("value", [{True: 1}, {None: 1}, {1.5: 1}, {"a": {(1,): 1}}, {"a": {1, 2}}, b"bytes"])
def test_what_json_has_not_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


@settings(deadline=None)
@given(JSON)
def test_reading_it_back_changes_no_digest(value: Any) -> None:
    assert digest_of(json.loads(canonical_json(value))) == digest_of(value)
    assert digest_of(json.loads(json.dumps(value, indent=3))) == digest_of(value)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=6), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert digest_of(dict(items)) == digest_of(value)


def manifest(**changes: Any) -> Manifest:
    return Manifest.parse(
        {
            "apiVersion": "windlass.dev/v1alpha1",
            "kind": "Manifest",
            "model": "digits",
            "version": 3,
            "format": "SavedModel",
            "files": [
                {"path": "saved_model.pb", "size": 10, "sha256": SHA},
                {"path": "windlass/parity/serving_default.npz", "size": 20, "sha256": SHA},
            ],
            "signatures": {
                "serving_default": {
                    "inputs": {"x": {"datatype": "FP32", "shape": [-1, 8, 8]}},
                    "outputs": {"y": {"datatype": "FP32", "shape": [-1, 10]}},
                }
            },
            "parity": [{"path": "windlass/parity/serving_default.npz", "rtol": 0.01, "atol": 1}],
            **changes,
        },
        "manifest.json",
    )


def test_the_digests_of_a_manifest_stay_what_they_are() -> None:
    assert manifest().digest() == "sha256:2c0fa7c1c0831e6b3cf0c3930488a893293b9643427cf41009895a7960192f53"
    assert manifest().content_digest() == "sha256:d3895c46a57431562d2ea4fbc4341adb3f2ca3ef9b844f56abff822a37494c28"


def test_the_digest_of_a_plan_stays_what_it_is() -> None:
    plan = ServingPlan.build(
        "digits",
        7,
        {
            "digits": ModelPlan(
                committed=3,
                versions=[PlannedVersion(version=3, digest=f"sha256:{SHA}", weight=1000)],
                labels={"stable": 3},
                lease_seconds=5,
                pinned={3: f"sha256:{SHA}", 10: f"sha256:{SHA}"},
            )
        },
    )
    assert plan.digest == "sha256:ed3a19da1c2cc9d69c98ec3d214e5b9f2167abf69f5905a54a510bb93b4ab165"


def test_a_number_written_another_way_is_the_same_manifest() -> None:
    one = manifest(parity=[{"path": "saved_model.pb", "rtol": 0, "atol": 1}])
    other = manifest(parity=[{"path": "saved_model.pb", "rtol": 0.0, "atol": 1.0}])
    assert one.digest() == other.digest()


def test_each_field_of_a_manifest_is_under_its_digest() -> None:
    changed = [
        manifest(version=4),
        manifest(model="other"),
        manifest(format="TFLite"),
        manifest(warmupBatchSizes=[2]),
        manifest(classes=["a"]),
        manifest(producer={"windlass": "1"}),
        manifest(ofANewerRelease=True),
        manifest(parity=[]),
    ]
    digests = {each.digest() for each in changed} | {manifest().digest()}
    assert len(digests) == len(changed) + 1


def test_the_content_digest_goes_by_the_models_own_files_alone() -> None:
    files = manifest().files
    assert manifest(
        version=9, classes=["a"], parity=[], files=[each.to_dict() for each in files[:1]]
    ).content_digest() == (manifest().content_digest())
    for change in ({"path": "other.pb"}, {"size": 11}, {"sha256": "cd" * 32}):
        assert content_digest([files[0].model_copy(update=change)]) != content_digest(files)
    near = FileEntry(path="windlass.txt", size=1, sha256=SHA)
    assert content_digest([files[0], near]) != content_digest(files), "only the folder windlass/ is left out"
