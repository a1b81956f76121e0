# ruff: noqa: E501 - tables of requests and errors, one to a line
"""Open Inference Protocol v2: what is there, and what JSON requests are answered."""

import re

import pytest

from windlass_contract.manifest import Signature
from windlass_contract.report import VersionState
from windlass_server.errors import Code, ServingError


def ask(name="x", shape=(2, 1), datatype="FP32", data=(1.0, 2.0), **fields):
    """A request with one input."""
    entry = {"name": name, "shape": list(shape), "datatype": datatype}
    if data is not None:
        entry["data"] = list(data)
    return {"inputs": [entry | fields.pop("entry", {})], **fields}


def test_the_server_says_what_it_is(half):
    body = half.get("/v2").json()

    assert body["name"] == "windlass"
    assert re.fullmatch(r"\d+\.\d+\.\d+", body["version"])
    assert body["extensions"] == ["binary_tensor_data", "model_repository", "parameters"]
    assert half.get("/v2/").json() == body


def test_health_bodies_are_what_kserves_client_reads(half):
    assert (half.get("/v2/health/live").json(), half.get("/v2/health/ready").json()) == (
        {"live": True},
        {"ready": True},
    )

    half.health.reasons = ["version 2 is Loading"]

    for question in ("live", "ready"):
        answer = half.get(f"/v2/health/{question}")
        assert answer.status_code == 503
        assert answer.json() == {"error": f"not {question}: version 2 is Loading", question: False}


def test_metadata_lists_ready_versions_and_the_tensors(half):
    half.hosting.hosted["half"][1].addressable = False

    assert half.get("/v2/models/half").json() == {
        "name": "half",
        "versions": ["2"],
        "platform": "tensorflow_savedmodel",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
    }
    assert half.get("/v2/models/half/versions/2").headers["X-Model-Version"] == "2"


def test_a_models_readiness(half):
    assert half.get("/v2/models/half/ready").json() == {"name": "half", "ready": True}
    assert half.get("/v2/models/half/versions/1/ready").json() == {"name": "half", "ready": True}
    assert half.get("/v2/models/nobody/ready").status_code == 404
    assert half.get("/v2/models/half/versions/9/ready").status_code == 404

    half.hosting.hosted["half"][1].state = VersionState.LOADING
    answer = half.get("/v2/models/half/versions/1/ready")
    assert (answer.status_code, answer.json()) == (
        503,
        {"error": "version 1 of model half is not ready: it is Loading"},
    )

    half.hosting.refusal = ServingError(Code.UNAVAILABLE, "no version of model half lives")
    assert half.get("/v2/models/half/ready").status_code == 503
    half.hosting.refusal = ServingError(Code.RESOURCE_EXHAUSTED, "the queue is full")
    assert half.get("/v2/models/half/ready").status_code == 200


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": false}'])
def test_the_repository_index_lists_every_version(half, body):
    half.hosting.hosted["half"][2].state = VersionState.FAILED
    half.hosting.hosted["half"][2].message = "its samples failed"

    assert half.post("/v2/repository/index", body).json() == [
        {"name": "half", "version": "1", "state": "READY", "reason": ""},
        {"name": "half", "version": "2", "state": "UNAVAILABLE", "reason": "its samples failed"},
    ]


def test_the_repository_index_can_leave_out_what_is_not_ready(half):
    half.hosting.hosted["half"][2].addressable = False

    assert [entry["version"] for entry in half.post("/v2/repository/index", {"ready": True}).json()] == ["1"]
    assert half.post("/v2/repository/index", {}).json()[1]["state"] == "LOADING"


@pytest.mark.parametrize("action", ["load", "unload"])
def test_loading_by_request_is_refused_with_a_reason(half, action):
    answer = half.post(f"/v2/repository/models/half/{action}", {})

    assert answer.status_code == 501
    assert "ModelVersion" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2", "GET"),
        ("HEAD", "/v2/health/live", "GET"),
        ("POST", "/v2/health/ready", "GET"),
        ("GET", "/v2/models/half/infer", "POST"),
        ("POST", "/v2/models/half", "GET"),
        ("PUT", "/v2/models/half/ready", "GET"),
        ("GET", "/v2/repository/index", "POST"),
        ("GET", "/v2/repository/models/half/load", "POST"),
    ],
)
def test_a_wrong_method_is_405_with_the_right_one(half, method, path, allowed):
    answer = half.request(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.headers["content-type"] == "application/json"
    if method != "HEAD":
        assert answer.json() == {"error": "Method Not Allowed"}


@pytest.mark.parametrize("path", ["/v2/nothing", "/v2/models", "/v2/models/half/versions", "/v2/models/half/infer/"])
def test_an_unknown_path_is_404(half, path):
    answer = half.get(path)

    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


@pytest.mark.parametrize("path", ["config", "stats"])
def test_what_is_not_supported_says_so(half, path):
    assert half.get(f"/v2/models/half/{path}").status_code == 501


def test_an_inference_echoes_the_id_and_flattens_data(half):
    answer = half.post("/v2/models/half/versions/1/infer", ask(id="abc"))

    assert answer.json() == {
        "model_name": "half",
        "model_version": "1",
        "id": "abc",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [2.5, 3.0]}],
    }
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["X-Model-Version"] == "1"


def test_data_may_be_nested_and_the_id_left_out(half):
    body = half.post("/v2/models/half/infer", ask(data=[[1.0], [2]])).json()

    assert body["outputs"][0]["data"] == [3.5, 4.0]
    assert "id" not in body


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("UINT16", [0, 65535]),
        ("UINT32", [0, 2**32 - 1]),
        ("UINT64", [0, 2**64 - 1]),
        ("INT8", [-128, 127]),
        ("INT16", [-(2**15), 2**15 - 1]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("FP32", [0.1, -2.0]),
        ("FP64", [0.1, 1e300]),
        ("BYTES", ["text", "grüße"]),
    ],
)
def test_every_datatype_passes_through_json(make_api, kit, datatype, data):
    api = make_api(("m", kit.identity(datatype, -1)))

    answer = api.post("/v2/models/m/infer", ask(shape=[2], datatype=datatype, data=data))

    assert answer.json()["outputs"] == [{"name": "y", "datatype": datatype, "shape": [2], "data": data}]


def test_only_requested_outputs_come_back_in_their_order(make_api, kit):
    api = make_api(("pair", kit.pair()))
    inputs = [
        {"name": "b", "shape": [1], "datatype": "INT32", "data": [2]},
        {"name": "a", "shape": [1], "datatype": "FP32", "data": [3]},
    ]

    one = api.post("/v2/models/pair/infer", {"inputs": inputs, "outputs": [{"name": "difference"}]})
    both = api.post("/v2/models/pair/infer", {"inputs": inputs, "outputs": [{"name": "difference"}, {"name": "sum"}]})

    assert [(output["name"], output["data"]) for output in one.json()["outputs"]] == [("difference", [1.0])]
    assert [output["name"] for output in both.json()["outputs"]] == ["difference", "sum"]
    assert [asked for _, _, asked in api.hosting.asked] == [["difference"], ["difference", "sum"]]


def test_the_signature_can_be_named_by_a_parameter(make_api, kit):
    tensor = kit.spec("FP32", -1)
    signatures = {name: Signature(inputs={"x": tensor}, outputs={"y": tensor}) for name in ("negate", "double")}
    factor = {"negate": -1, "double": 2}
    api = make_api(("m", kit.Version(1, signatures, lambda name, inputs: {"y": inputs["x"] * factor[name]})))

    named = api.post("/v2/models/m/infer", ask(shape=[1], data=[3.0], parameters={"signature_name": "double"}))
    unnamed = api.post("/v2/models/m/infer", ask(shape=[1], data=[3.0]))
    wrong = api.post("/v2/models/m/infer", ask(shape=[1], data=[3.0], parameters={"signature_name": "halve"}))

    assert named.json()["outputs"][0]["data"] == [6.0]
    assert unnamed.status_code == wrong.status_code == 400
    assert "double, negate: name one in the request's parameter signature_name" in unnamed.json()["error"]
    assert wrong.json()["error"] == "model 'm' has no signature \"halve\", but double, negate"


def test_not_a_number_passes_through_json(make_api, kit):
    api = make_api(("m", kit.identity("FP32", -1)))

    answer = api.post(
        "/v2/models/m/infer", '{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[NaN,-Infinity]}]}'
    )

    assert '"data":[NaN,-Infinity]' in answer.text


def test_bytes_that_are_no_text_need_binary(make_api, kit):
    tensor = kit.spec("BYTES", -1)
    signature = Signature(inputs={"x": tensor}, outputs={"y": tensor})

    def broken(_, inputs):
        inputs["x"][:] = [b"\xff"]
        return {"y": inputs["x"]}

    api = make_api(("m", kit.Version(1, {"serving_default": signature}, broken)))

    answer = api.post("/v2/models/m/infer", ask(shape=[1], datatype="BYTES", data=["a"]))

    assert answer.status_code == 400
    assert "binary data format for output y" in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "failed to parse the request JSON buffer: The document is empty. at offset: 0"),
        (b"{", 400, "failed to parse the request JSON buffer: Missing a name for object member. at offset: 1"),
        (b'{"inputs":[]} x', 400, "failed to parse the request JSON buffer: The document root must not be followed by other values. at offset: 13"),
        (b"[]", 400, "a JSON object is expected, got []"),
        ({}, 400, "'inputs' is missing"),
        ({"inputs": {}}, 400, "'inputs' must be a list, got {}"),
        ({"inputs": []}, 400, "expected 1 inputs but got 0 inputs for model 'half'. Got input(s) [], but missing required input(s) ['x']. Please provide all required input(s)."),
        ({"inputs": ["x"]}, 400, "each input must be an object with a 'name', got \"x\""),
        ({"inputs": [{"shape": [1]}]}, 400, "each input must be an object with a 'name', got {\n    \"shape\": [1]\n}"),
        (ask(name="z"), 400, "unexpected inference input 'z' for model 'half'"),
        ({"inputs": ask()["inputs"] * 2}, 400, "input 'x' already exists in request"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "data": [1]}]}, 400, "'shape' of input 'x' is missing"),
        ({"inputs": [{"name": "x", "shape": [1, 1], "data": [1]}]}, 400, "'datatype' of input 'x' is missing"),
        (ask(data=None), 400, "input 'x' has neither 'data' nor the parameter 'binary_data_size'"),
        (ask(entry={"parameters": {"binary_data_size": 8}}), 400, "input 'x' has both 'data' and the parameter 'binary_data_size'"),
        (ask(data=None, entry={"parameters": {"binary_data_size": "8"}}), 400, "'binary_data_size' of input 'x' must be a number of bytes, got \"8\""),
        (ask(data=None, entry={"parameters": {"binary_data_size": 8}}), 400, "unexpected size for input 'x' for model 'half', expecting 8 additional bytes"),
        (ask(entry={"parameters": []}), 400, "'parameters' of input 'x' must be an object, got []"),
        (ask(entry={"parameters": {"shared_memory_region": "r"}}), 501, "input 'x': shared memory is not supported; send the tensor in the body"),
        (ask(datatype="FLOAT"), 400, "input 'x' has unknown 'datatype' \"FLOAT\": one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES"),
        (ask(datatype="INT32"), 400, "inference input 'x' data-type is 'INT32', but model 'half' expects 'FP32'"),
        (ask(shape=[2]), 400, "unexpected shape for input 'x' for model 'half'. Expected [-1,1], got [2]"),
        (ask(shape=[1, 2]), 400, "unexpected shape for input 'x' for model 'half'. Expected [-1,1], got [1,2]"),
        (ask(shape=[3, 1]), 400, "'data' of input 'x' has 2 elements; shape [3, 1] has 3"),
        (ask(shape=[-1, 1]), 400, "input 'x' has dimension -1: 0 to 2147483647 is expected"),
        (ask(shape=[True, 1]), 400, "'shape' of input 'x' must be a list of integers, got [true, 1]"),
        (ask(shape=[1] * 17), 400, "input 'x' has rank 17; at most 16 is supported"),
        (ask(shape=[1099511627776, 4]), 400, "input 'x' has dimension 1099511627776: 0 to 2147483647 is expected"),
        (ask(shape=[2147483647, 1]), 413, "input 'x' of shape [2147483647, 1] has more than the 67108864 elements allowed"),
        (ask(shape=[2147483647, 2147483647, 0]), 413, "input 'x' of shape [2147483647, 2147483647, 0] has more than the 67108864 elements allowed"),
        (ask(data=["a", 1]), 400, "'data' of input 'x' holds \"a\", which is no FP32"),
        (ask(data=[True, 1]), 400, "'data' of input 'x' holds true, which is no FP32"),
        (ask(data=[None, 1]), 400, "'data' of input 'x' holds null, which is no FP32"),
        (ask(data=[[1], 1]), 400, "'data' of input 'x' mixes lists and values"),
        (ask(data=[1e39, 1]), 400, "'data' of input 'x' holds a number beyond the range of FP32"),
        (ask(id=1), 400, "'id' must be a string, got 1"),
        (ask(parameters=1), 400, "'parameters' of the request must be an object, got 1"),
        (ask(parameters={"binary_data_output": 1}), 400, "parameter 'binary_data_output' of the request must be true or false, got 1"),
        (ask(outputs={}), 400, "'outputs' must be a list, got {}"),
        (ask(outputs=[{"name": "z"}]), 400, "unexpected inference output 'z' for model 'half'"),
        (ask(outputs=[{"name": "y"}, {"name": "y"}]), 400, "output 'y' already requested"),
        (ask(outputs=[{"name": "y", "parameters": {"classification": 3}}]), 501, "output 'y': the classification extension is not supported; use POST /predict"),
    ],
)  # fmt: skip
def test_a_request_that_does_not_fit_is_refused_in_json(half, body, status, error):
    answer = half.post("/v2/models/half/infer", body)

    assert answer.json() == {"error": error}
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert half.hosting.asked == []


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("UINT8", 256), ("INT8", -129), ("INT32", 1.0), ("INT64", 2**63), ("UINT64", -1), ("BOOL", 1), ("BYTES", 1),
        ("INT16", True),
    ],
)  # fmt: skip
def test_values_are_never_bent_to_fit(make_api, kit, datatype, value):
    api = make_api(("m", kit.identity(datatype, -1)))

    assert api.post("/v2/models/m/infer", ask(shape=[1], datatype=datatype, data=[value])).status_code == 400


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_asks_for_binary(make_api, kit, datatype):
    api = make_api(("m", kit.identity(datatype, -1)))

    answer = api.post("/v2/models/m/infer", ask(shape=[1], datatype=datatype, data=[1.0]))

    assert answer.json()["error"] == (
        f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input x"
    )


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/nobody/infer", 404),
        ("/v2/models/half/versions/9/infer", 404),
        ("/v2/models/half/versions/latest/infer", 400),
        ("/v2/models/half/versions/99999999999999999999/infer", 400),
    ],
)
def test_an_unknown_model_or_version(half, path, status):
    answer = half.post(path, ask())

    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_predictions_are_recorded_with_the_top_class(make_api, kit):
    version = kit.digits()
    api = make_api(("digits", version))
    data = [0.0] * 64
    data[3 * 8 : 4 * 8] = [0.5] * 8

    api.post("/v2/models/digits/infer", ask(name="image", shape=[1, 8, 8, 1], data=data))

    (prediction,) = api.log.predictions
    assert (prediction.protocol, prediction.top_class, prediction.top_score) == ("v2", "three", 0.5)
