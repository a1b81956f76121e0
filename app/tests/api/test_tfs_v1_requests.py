# ruff: noqa: E501 - tables of requests and errors, one to a line
"""TensorFlow Serving's v1: what is asked in the way of its documentation is answered as its documentation says."""

import base64
import json

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from windlass_contract.manifest import Signature
from windlass_contract.report import VersionState
from windlass_server.api.tfs_examples import parse_examples


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/v1/models/half:predict", '{"instances": [1.0, 2.0, 5.0]}', {"predictions": [3.5, 4.0, 5.5]}),
        ("/v1/models/half/versions/1:predict", '{"instances": [1.0, 2.0, 5.0]}', {"predictions": [2.5, 3.0, 4.5]}),
        ("/v1/models/half/labels/canary:predict", '{"instances": [1.0, 2.0]}', {"predictions": [2.5, 3.0]}),
        ("/v1/models/half/labels/stable:predict", '{"instances": [[1.0], [2.0]]}', {"predictions": [[3.5], [4.0]]}),
        ("/v1/models/half/versions/1:predict", '{"inputs": [3.0, 4.0]}', {"outputs": [3.5, 4.0]}),
        ("/v1/models/half/versions/1:predict", '{"inputs": {"x": [[3], [4]]}}', {"outputs": [[3.5], [4.0]]}),
        ("/v1/models/half/versions/1:predict", '{"instances": [{"x": [3.0]}, {"x": [4.0]}]}', {"predictions": [[3.5], [4.0]]}),
        ("/v1/models/half/versions/1:predict", '{"instances": [{"x": 3.0}]}', {"predictions": [3.5]}),
        ("/v1/models/half/versions/1:predict", '{"signature_name": "", "instances": [3]}', {"predictions": [3.5]}),
        ("/v1/models/half/versions/1:predict", '{"signature_name": "serving_default", "instances": [3]}', {"predictions": [3.5]}),
        ("/v1/models/half/versions/001:predict", '{"instances": [3], "other": [{}]}', {"predictions": [3.5]}),
        ("/V1/Models/half/Versions/1:PREDICT", '{"instances": [3]}', {"predictions": [3.5]}),
        ("/v1/models/ha%6Cf/labels/c%61nary:predict", '{"instances": [3]}', {"predictions": [3.5]}),
        ("/v1/models/half/versions/1:predict", '{"instances": [3]} and more', {"predictions": [3.5]}),
        ("/v1/models/half/versions/1:regress", '{"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}]}', {"results": [42.0]}),
        ("/v1/models/half/versions/1:classify", '{"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}, {"x": [10.0]}]}', {"results": [[["", 12.0]], [["", 7.0]]]}),
        ("/v1/models/half/versions/1:classify", '{"signature_name": "classify_x_to_y", "context": {"x": 20.0}, "examples": [{}]}', {"results": [[["", 12.0]]]}),
    ],
)  # fmt: skip
def test_documented_requests_are_answered(half, path, body, answer):
    status, content = half.raw("POST", path, {}, [body.encode()])

    assert (status, json.loads(content)) == (200, answer)


def test_the_content_type_is_ignored(half):
    answer = half.post(
        "/v1/models/half:predict", b'{"instances": [1]}', headers={"content-type": "application/x-www-form-urlencoded"}
    )

    assert answer.json() == {"predictions": [3.5]}
    assert answer.headers["content-type"] == "application/json"


def test_every_answer_of_a_model_says_who_answered(half):
    good = half.post("/v1/models/half/versions/1:predict", {"instances": [1]}, headers={"X-Request-Id": "mine"})
    bad = half.post("/v1/models/half:predict", {"instances": ["x"]})

    for answer, version in ((good, "1"), (bad, "2")):
        assert answer.headers["X-Model-Version"] == version
        assert answer.headers["X-Model-Digest"].startswith("sha256:")
        assert answer.headers["X-Plan-Epoch"] == "7"
        assert answer.headers["X-Instance"] == "instance-1"
    assert good.headers["X-Request-Id"] == "mine"
    assert len(bad.headers["X-Request-Id"]) == 32


def test_several_inputs_and_outputs_go_by_name(make_api, kit):
    api = make_api(("pair", kit.pair()))

    rows = api.post("/v1/models/pair:predict", {"instances": [{"a": 1.5, "b": 1}, {"a": 0, "b": -2}]})
    columns = api.post("/v1/models/pair:predict", {"inputs": {"a": [1.5, 0], "b": [1, -2], "c": "ignored"}})

    assert rows.json() == {"predictions": [{"sum": 2.5, "difference": 0.5}, {"sum": -2.0, "difference": 2.0}]}
    assert columns.json() == {"outputs": {"sum": [2.5, -2.0], "difference": [0.5, 2.0]}}


def test_rows_of_several_outputs_need_one_batch(make_api, kit):
    signature = Signature(
        inputs={"x": kit.spec("FP32", -1)}, outputs={"a": kit.spec("FP32", -1), "b": kit.spec("FP32", -1)}
    )
    uneven = kit.Version(1, {"serving_default": signature}, lambda _, inputs: {"a": inputs["x"], "b": inputs["x"][:1]})
    scalar = kit.Version(2, {"serving_default": signature}, lambda _, inputs: {"a": inputs["x"].sum().reshape(())})
    api = make_api(("m", uneven), ("m", scalar))

    answers = [api.post(f"/v1/models/m/versions/{version}:predict", {"instances": [1, 2]}) for version in (1, 2)]
    columns = api.post("/v1/models/m/versions/2:predict", {"inputs": [1, 2]})

    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json()["error"] == "Tensor name: b has inconsistent batch size: 1 expecting: 2"
    assert answers[1].json()["error"] == "Tensor name: a has no shape information "
    assert columns.json() == {"outputs": 3.0}


@pytest.mark.parametrize(
    ("datatype", "sent", "text"),
    [
        ("FP32", "0.1", "0.1"),
        ("FP32", "3", "3.0"),
        ("FP32", "16777216", "16777216.0"),
        ("FP32", "0.333333343", "0.33333334"),
        ("FP32", "1e-45", "1e-45"),
        ("FP32", "NaN", "NaN"),
        ("FP64", "-Infinity", "-Infinity"),
        ("FP32", "Infinity", "Infinity"),
        ("FP32", "-0.0", "-0.0"),
        ("FP64", "0.1", "0.1"),
        ("FP64", "0.30000000000000004", "0.30000000000000004"),
        ("INT64", "9223372036854775807", "9223372036854775807"),
        ("INT64", "-9223372036854775808", "-9223372036854775808"),
        ("UINT64", "18446744073709551615", "18446744073709551615"),
        ("UINT32", "4294967295", "4294967295"),
        ("INT8", "-128", "-128"),
        ("BOOL", "true", "true"),
        ("BYTES", '"grüße"', '"grüße"'),
        ("BYTES", '{"b64": "aGVsbG8="}', '"hello"'),
        ("BYTES", '{"b64": "aGVsbG8"}', '"hello"'),
        ("BYTES", '{"b64": "/w=="}', '{"b64":"/w=="}'),
    ],
)
def test_values_come_back_to_the_letter(make_api, kit, datatype, sent, text):
    api = make_api(("m", kit.identity(datatype, -1)))

    answer = api.post("/v1/models/m:predict", f'{{"instances": [{sent}]}}')

    assert answer.text == f'{{"predictions":[{text}]}}'


def test_not_a_number_stands_where_it_was_in_rows_and_columns(make_api, kit):
    api = make_api(("m", kit.identity("FP32", -1, 3)))
    body = "[[1.0,NaN,2.5],[Infinity,0.1,-Infinity]]"

    rows = api.post("/v1/models/m:predict", f'{{"instances": {body}}}')
    columns = api.post("/v1/models/m:predict", f'{{"inputs": {body}}}')

    assert rows.text == f'{{"predictions":{body}}}'
    assert columns.text == f'{{"outputs":{body}}}'


def test_bytes_leave_as_base64_by_their_outputs_name(make_api, kit):
    api = make_api(("m", kit.identity("BYTES", -1, output="image_bytes")))

    answer = api.post("/v1/models/m:predict", {"instances": ["ab", {"b64": base64.b64encode(b"\xff").decode()}]})

    assert answer.json() == {"predictions": [{"b64": "YWI="}, {"b64": "/w=="}]}


def test_a_batch_of_none_is_a_batch(make_api, kit):
    api = make_api(("m", kit.identity("FP32", -1, -1)), ("text", kit.identity("BYTES", -1, -1)))

    assert api.post("/v1/models/m:predict", {"inputs": [[]]}).json() == {"outputs": [[]]}
    assert api.post("/v1/models/text:predict", {"inputs": [[], []]}).json() == {"outputs": [[], []]}


@pytest.mark.parametrize("shape", [(None,), (-1,), (2,)])
def test_ranks_that_the_signature_allows_are_fed(make_api, kit, shape):
    api = make_api(("m", kit.identity("FP32", *shape)))

    assert api.post("/v1/models/m:predict", {"instances": [1, 2]}).json() == {"predictions": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("shape", "instances"),
    [
        ((-1, 32, 32, 3), [1.0]),
        ((-1, 4), [1.0, 2.0]),
        ((-1, 1), [[1.0, 2.0]]),
        ((-1, 1), [[[1.0]]]),
        ((-1, 4), [[1.0]]),
    ],
)
def test_a_rank_that_could_abort_tensorflow_is_refused(make_api, kit, shape, instances):
    api = make_api(("m", kit.identity("FP32", *shape)))

    answer = api.post("/v1/models/m:predict", {"instances": instances})

    assert answer.status_code == 400
    assert "input 'x' of signature 'serving_default' expects shape" in answer.json()["error"]
    assert api.hosting.asked == []


def test_a_scalar_is_no_column(half):
    assert half.post("/v1/models/half:predict", {"inputs": 1.0}).status_code == 400


@pytest.mark.parametrize(
    ("path", "state"),
    [("/v1/models/half", None), ("/v1/models/half/versions/1", "AVAILABLE"), ("/v1/models/half/labels/nonsense", None)],
)
def test_status_names_versions_as_strings_and_ignores_labels(half, path, state):
    answer = half.get(path)

    assert answer.status_code == 200
    statuses = answer.json()["model_version_status"]
    assert [status["version"] for status in statuses] == (["1"] if state else ["2", "1"])
    assert statuses[0] == {
        "version": statuses[0]["version"],
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }


@pytest.mark.parametrize(
    ("state", "addressable", "message", "said", "error_code"),
    [
        (VersionState.WAITING, False, "", "START", "OK"),
        (VersionState.WAITING, False, "files are missing", "START", "UNAVAILABLE"),
        (VersionState.VERIFYING, False, "", "LOADING", "OK"),
        (VersionState.LOADING, False, "", "LOADING", "OK"),
        (VersionState.WARMING_UP, False, "", "LOADING", "OK"),
        (VersionState.TESTING, False, "", "LOADING", "OK"),
        (VersionState.PREPARED, False, "", "LOADING", "OK"),
        (VersionState.PREPARED, True, "", "AVAILABLE", "OK"),
        (VersionState.UNLOADING, False, "", "UNLOADING", "OK"),
        (VersionState.FAILED, False, "it won't load", "END", "INTERNAL"),
    ],
)
def test_states_are_said_in_tensorflow_servings_words(half, state, addressable, message, said, error_code):
    version = half.hosting.hosted["half"][2]
    version.state, version.addressable, version.message = state, addressable, message

    (status,) = half.get("/v1/models/half/versions/2").json()["model_version_status"]

    assert status == {
        "version": "2",
        "state": said,
        "status": {"error_code": error_code, "error_message": message},
    }


def test_metadata_has_proto_field_names_doubly_nested(half):
    body = half.get("/v1/models/half/versions/1/metadata").json()

    assert body["model_spec"] == {"name": "half", "signature_name": "", "version": "1"}
    signatures = body["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"] == {
        "inputs": {
            "x": {
                "dtype": "DT_FLOAT",
                "tensor_shape": {
                    "dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}],
                    "unknown_rank": False,
                },
                "name": "x",
            }
        },
        "outputs": signatures["serving_default"]["outputs"],
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    assert signatures["regress_x_to_y"]["method_name"] == "tensorflow/serving/regress"


def test_kserves_fields_stand_beside_tensorflow_servings(half):
    assert half.get("/v1/models").json() == {"models": ["half"]}
    assert half.get("/v1/models/half").json().items() >= {"name": "half", "ready": True}.items()
    assert half.get("/").json() == {"status": "alive"}
    half.hosting.hosted["half"][1].addressable = half.hosting.hosted["half"][2].addressable = False
    assert half.get("/v1/models/half").json()["ready"] is False


def test_strict_tfs_leaves_kserves_fields_out(make_api, kit):
    api = make_api(("half", kit.Version(1, *kit.affine(0.5, 2.0))), strict_tfs=True)

    assert list(api.get("/v1/models/half").json()) == ["model_version_status"]
    assert (api.get("/v1/models").status_code, api.get("/v1/models").json()) == (
        400,
        {"error": "Missing model name in request."},
    )


def test_cors_preflight_is_answered_as_there(half):
    assert (
        half.request("OPTIONS", "/v1/models/half:predict", headers={"Origin": "https://a.example"}).status_code == 200
    )
    refused = half.request("OPTIONS", "/v1/models/half:predict")
    assert (refused.status_code, refused.json()) == (400, {"error": "Origin header is missing in CORS preflight"})


def test_predictions_are_recorded(half):
    half.post("/v1/models/half:predict", {"instances": [1]}, headers={"X-Request-Id": "abc"})
    half.post("/v1/models/half:predict", {"instances": ["refused before it ran"]})

    (prediction,) = half.log.predictions
    assert (prediction.model, prediction.version, prediction.epoch, prediction.protocol) == ("half", 2, 7, "v1")
    assert (prediction.signature, prediction.status, prediction.request_id) == ("serving_default", 200, "abc")
    assert (prediction.top_class, prediction.top_score) == (None, None)
    assert prediction.latency_seconds > 0


def _example_type():
    """`tf.train.Example`, described by hand, as an independent reader of what is written."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="check", syntax="proto3")

    def message(parent, name, *fields):
        made = parent.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            entry = made.field.add(name=field, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                entry.type, entry.type_name = 11, f".check.{kind}"
            else:
                entry.type = kind
        return made

    message(file.message_type, "BytesList", ("value", 12, True))
    message(file.message_type, "FloatList", ("value", 2, True))
    message(file.message_type, "Int64List", ("value", 3, True))
    message(
        file.message_type,
        "Feature",
        ("bytes_list", "BytesList", False),
        ("float_list", "FloatList", False),
        ("int64_list", "Int64List", False),
    )
    features = message(file.message_type, "Features", ("feature", "Features.FeatureEntry", True))
    entry = message(features.nested_type, "FeatureEntry", ("key", 9, False), ("value", "Feature", False))
    entry.options.map_entry = True
    message(file.message_type, "Example", ("features", "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("check.Example"))


def test_examples_are_written_as_protocol_buffers():
    example_type = _example_type()
    document = {
        "context": {"user": ["ada", {"b64": "/w=="}]},
        "examples": [{"age": -3, "sizes": [1.5, 2.5], "yes": [True, False], "big": 2**63 - 1, "none": []}, {}],
    }

    tensor = parse_examples(document)

    first, second = (example_type.FromString(each).features.feature for each in tensor)
    assert list(first["user"].bytes_list.value) == [b"ada", b"\xff"]
    assert list(first["age"].int64_list.value) == [-3]
    assert list(first["sizes"].float_list.value) == [1.5, 2.5]
    assert list(first["yes"].int64_list.value) == [1, 0]
    assert list(first["big"].int64_list.value) == [2**63 - 1]
    assert "none" in first
    assert set(second) == {"user"}


def test_long_features_have_long_lengths():
    (data,) = parse_examples({"examples": [{"text": "x" * 100_000}]})

    assert _example_type().FromString(data).features.feature["text"].bytes_list.value[0] == b"x" * 100_000


def test_classes_with_labels_and_without_scores(make_api, kit):
    def labelled(signature, inputs):
        labels = np.array([[b"cat", b"dog"]] * len(inputs["inputs"]), dtype=object)
        scores = np.array([[0.9, 0.1]] * len(inputs["inputs"]), dtype=np.float32)
        return {"classes": labels} if signature == "names" else {"classes": labels, "scores": scores}

    example = {"inputs": kit.spec("BYTES", -1)}
    classes, scores = kit.spec("BYTES", -1, 2), kit.spec("FP32", -1, 2)
    api = make_api(("m", kit.Version(1, {
        "serving_default": Signature(inputs=example, outputs={"classes": classes, "scores": scores}, method="classify"),
        "names": Signature(inputs=example, outputs={"classes": classes}, method="classify"),
    }, labelled)))  # fmt: skip

    both = api.post("/v1/models/m:classify", {"examples": [{}]})
    names = api.post("/v1/models/m:classify", {"signature_name": "names", "examples": [{}, {}]})

    assert both.text == '{"results":[[["cat",0.9],["dog",0.1]]]}'
    assert names.json() == {"results": [[["cat", 0.0], ["dog", 0.0]]] * 2}
