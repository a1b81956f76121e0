# ruff: noqa: E501 - tables of requests and errors, one to a line
"""TensorFlow Serving's v1: each refusal, in its words and in its order."""

import json

import ml_dtypes
import numpy as np
import pytest

from windlass_contract.manifest import Signature
from windlass_server.errors import Code, ServingError

HALF = "/v1/models/half:predict"
DEEP = "[" * 40 + "]" * 40


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/foo"),
        ("POST", "/v1/models"),
        ("GET", "/v1/models/half:predict"),
        ("GET", "/v1/models/half/"),
        ("POST", "/v1/models/half:predict/"),
        ("POST", "/v1/models/half:explain"),
        ("POST", "/v1/models/half/metadata"),
        ("GET", "/v1/models/debug/model_name"),
        ("GET", "/v1/models/half/version/50"),
        ("POST", "/v1/models/half/version/50:regress"),
        ("POST", "/v1/models/half/versions/HELLO:regress"),
        ("POST", "/v1/models/half/versions/50/labels/some:regress"),
        ("POST", "/v1/models/half/versions/-1:predict"),
        ("PUT", "/v1/models/half:predict"),
        ("DELETE", "/v1/models/half"),
        ("PATCH", "/V1/models/half"),
        ("GET", "/v1/"),
        ("GET", "/v1"),
        ("GET", "/v1/models/a:b/metadata"),
    ],
)
def test_a_wrong_method_or_path_is_a_malformed_request(half, method, path):
    answer = half.request(method, path)

    assert answer.status_code == 400
    assert answer.json() == {"error": f"Malformed request: {method} {path}"}
    assert answer.headers["content-type"] == "application/json"


def test_head_is_a_malformed_request_without_a_body(half):
    answer = half.request("HEAD", "/v1/models/half")

    assert (answer.status_code, answer.content) == (400, b"")


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        # The order of checks: JSON, signature's type, model, signature's name, keys, values.
        ("/v1/models/nobody:predict", "{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
        ("/v1/models/nobody:predict", '{"signature_name": 1}', 400, 'JSON Value: {\n    "signature_name": 1\n} not formatted correctly. \'signature_name\' key must be a string value.'),
        ("/v1/models/nobody:predict", '{"signature_name": "x"}', 404, "Servable not found for request: Latest(nobody)"),
        (HALF, '{"signature_name": "x"}', 400, 'Serving signature name: "x" not found in signature def'),
        ("/v1/models/half/versions/99:predict", '{"instances": ["x"]}', 404, "Servable not found for request: Specific(half, 99)"),
        ("/v1/models/half/labels/old:predict", '{"instances": ["x"]}', 400, "Unrecognized servable version label: old"),
        ("/v1/models/a%2Fb:predict", '{"instances": [1]}', 404, "Servable not found for request: Latest(a/b)"),
        ("/v1/models/half/versions/18446744073709551615:regress", "", 400, "Failed to convert version: 18446744073709551615 to numeric."),
        # JSON itself, in RapidJSON's words.
        (HALF, "", 400, "JSON Parse error: The document is empty"),
        (HALF, "  ", 400, "JSON Parse error: The document is empty. at offset: 2"),
        (HALF, "instances = [1, 2]", 400, "JSON Parse error: Invalid value. at offset: 0"),
        (HALF, '{"instances": [1 2]}', 400, "JSON Parse error: Missing a comma or ] after an array element. at offset: 17"),
        (HALF, '{"a": 1 "b"}', 400, "JSON Parse error: Missing a comma or } after an object member. at offset: 8"),
        (HALF, '{"a" 1}', 400, "JSON Parse error: Missing a colon after a name of object member. at offset: 5"),
        (HALF, '{"a": 1,}', 400, "JSON Parse error: Missing a name for object member. at offset: 8"),
        (HALF, '{"a": "b', 400, "JSON Parse error: Missing a closing quotation mark in string. at offset: 8"),
        (HALF, '{"a": 1.}', 400, "JSON Parse error: Miss fraction part in number. at offset: 8"),
        (HALF, '{"a": 1e400}', 400, "JSON Parse error: Number too big to be stored in double. at offset: 6"),
        (HALF, '{"a": "\\ud800"}', 400, "JSON Parse error: The surrogate pair in string is invalid. at offset: 7"),
        (HALF, "[1, 2]", 400, "JSON Value: [1, 2] Is not object"),
        (HALF, "NaN", 400, "JSON Value: NaN Is not object"),
        # Keys.
        (HALF, '{"instances": [1], "inputs": [1]}', 400, 'JSON Value: {\n    "instances": [1],\n    "inputs": [1]\n} Not formatted correctly expecting only one of \'inputs\' or \'instances\' keys to exist '),
        (HALF, '{"instances": 1}', 400, 'JSON Value: {\n    "instances": 1\n} Expecting \'instances\' to be an list/array'),
        (HALF, '{"instances": []}', 400, 'JSON Value: {\n    "instances": []\n} No values in \'instances\' array'),
        (HALF, "{}", 400, "Missing 'inputs' or 'instances' key"),
        # Values.
        (HALF, '{"instances": ["x"]}', 400, 'Failed to process element: 0 of \'instances\' list. Error: INVALID_ARGUMENT: JSON Value: "x" Type: String is not of expected type: float'),
        (HALF, '{"inputs": ["x"]}', 400, 'JSON Value: "x" Type: String is not of expected type: float'),
        (HALF, '{"inputs": [true]}', 400, "JSON Value: true Type: True is not of expected type: float"),
        (HALF, '{"inputs": [null]}', 400, "JSON Value: null Type: Null is not of expected type: float"),
        (HALF, '{"inputs": [1, {"b64": "aGk="}]}', 400, 'JSON Value: {\n    "b64": "aGk="\n} Type: Object is not of expected type: float'),
        (HALF, '{"inputs": [1e39]}', 400, "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        (HALF, '{"inputs": [[1, 2], [1, 2, 3]]}', 400, "Encountered list at unexpected size: 3 at level: 1 expected size: 2"),
        (HALF, '{"inputs": [1, [2]]}', 400, "Encountered list at unexpected level: 1 expected < 1"),
        (HALF, '{"inputs": [[1], 2]}', 400, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        (HALF, '{"instances": [[1], [1, 2]]}', 400, "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 1 but got: 2"),
        (HALF, '{"instances": [[1, 2], [[1, 2]]]}', 400, "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [2] but got: [1,2]"),
        (HALF, '{"instances": [[1], {"x": 1}]}', 400, "Expecting value/list but got object at item 1 of input list"),
        (HALF, '{"instances": [{"x": 1}, [1]]}', 400, "Expecting object but got list at item 1 of input list"),
        (HALF, '{"instances": [{"z": 1}]}', 400, "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: z"),
        (HALF, '{"inputs": {"z": 1}}', 400, "Missing named input: x in 'inputs' object."),
        (HALF, f'{{"instances": {DEEP}}}', 400, "the JSON is nested 41 deep; 32 levels are read"),
        # Two inputs.
        ("/v1/models/pair:predict", '{"instances": [1]}', 400, "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"),
        ("/v1/models/pair:predict", '{"inputs": [1]}', 400, "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"),
        ("/v1/models/pair:predict", '{"instances": [{"a": 1}]}', 400, 'Failed to process element: 0 of \'instances\' list. JSON object: {\n    "a": 1\n} keys must be equal to: a,b'),
        ("/v1/models/pair:predict", '{"inputs": {"b": [1]}}', 400, "Missing named input: a in 'inputs' object."),
        ("/v1/models/pair:predict", '{"instances": [{"a": 1, "b": 1.0}]}', 400, "Failed to process element: 0 key: b of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ("/v1/models/pair:predict", '{"inputs": {"a": [1], "b": [2147483648]}}', 400, "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        # Models without inputs.
        ("/v1/models/constant:predict", '{"instances": [1]}', 400, "Failed to get input map for signature: DEFAULT"),
        ("/v1/models/constant:predict", '{"signature_name": "other", "instances": [1]}', 400, "Failed to get input map for signature: other"),
        # classify and regress.
        ("/v1/models/nobody:classify", "{}", 400, "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
        ("/v1/models/nobody:regress", '{"examples": []}', 400, 'JSON Value: {\n    "examples": []\n} \'examples\' value is an empty array'),
        ("/v1/models/nobody:regress", '{"examples": 1}', 400, 'JSON Value: {\n    "examples": 1\n} Expecting \'examples\' value to be an list/array'),
        ("/v1/models/nobody:regress", '{"examples": [1]}', 400, "Example must be JSON object but got JSON Number"),
        ("/v1/models/nobody:regress", '{"context": [], "examples": [1]}', 400, "Example must be JSON object but got JSON Array"),
        ("/v1/models/nobody:regress", '{"examples": [{"x": null}]}', 400, "Feature: x has element with unexpected JSON type: Null"),
        ("/v1/models/nobody:regress", '{"examples": [{"x": [[1]]}]}', 400, "Feature: x has element with unexpected JSON type: Array"),
        ("/v1/models/nobody:regress", '{"examples": [{"x": {"a": 1}}]}', 400, "Feature: x has element with unexpected JSON type: Object"),
        ("/v1/models/nobody:regress", '{"examples": [{"x": [1, "a"]}]}', 400, "Unexpected element type in feature: x expecting type: int64"),
        ("/v1/models/nobody:regress", '{"examples": [{"x": 9223372036854775808}]}', 400, "Feature: x has uint64_t element. Only int64_t is supported."),
        ("/v1/models/nobody:regress", '{"examples": [{"x": 1.0}]}', 404, "Servable not found for request: Latest(nobody)"),
        ("/v1/models/half:regress", '{"signature_name": "none", "examples": [{"x": 1.0}]}', 400, "No signature was found with the name: none"),
        ("/v1/models/half:regress", '{"examples": [{"x": 1.0}]}', 400, "Expected regression signature method_name to be tensorflow/serving/regress. Was: tensorflow/serving/predict"),
        ("/v1/models/half:classify", '{"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}]}', 400, "Expected classification signature method_name to be tensorflow/serving/classify. Was: tensorflow/serving/regress"),
        ("/v1/models/half:regress", '{"signature_name": "regress_x_to_y", "examples": [{"x": 80}]}', 400, "Key: x.  Data types don't match. Expected type: float"),
    ],
)  # fmt: skip
def test_errors_are_tensorflow_servings(half, kit, path, body, status, error):
    half.hosting.add("pair", kit.pair())
    no_inputs = Signature(inputs={}, outputs={"y": kit.spec("FP32", -1)})
    half.hosting.add("constant", kit.Version(1, {"serving_default": no_inputs, "other": no_inputs}, lambda *_: {}))

    found, content = half.raw("POST", path, {}, [body.encode()])

    assert json.loads(content) == {"error": error}
    assert found == status
    assert half.hosting.in_flight == 0


@pytest.mark.parametrize(
    ("datatype", "value", "error"),
    [
        ("INT32", "1.0", "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ("INT32", "true", "JSON Value: true Type: True is not of expected type: int32"),
        ("INT32", "-2147483649", "JSON Value: -2147483649 Type: Number is not of expected type: int32"),
        ("INT64", "9223372036854775808", "JSON Value: 9223372036854775808 Type: Number is not of expected type: int64"),
        ("UINT64", "-1", "JSON Value: -1 Type: Number is not of expected type: uint64"),
        ("UINT32", "4294967296", "JSON Value: 4294967296 Type: Number is not of expected type: uint32"),
        ("UINT8", "256", "JSON Value: 256 Type: Number is not of expected type: uint8"),
        ("INT8", "-129", "JSON Value: -129 Type: Number is not of expected type: int8"),
        ("INT16", "32768", "JSON Value: 32768 Type: Number is not of expected type: int16"),
        ("UINT16", "-1", "JSON Value: -1 Type: Number is not of expected type: uint16"),
        ("BOOL", "1", "JSON Value: 1 Type: Number is not of expected type: bool"),
        ("BOOL", '"true"', 'JSON Value: "true" Type: String is not of expected type: bool'),
        ("FP64", "false", "JSON Value: false Type: False is not of expected type: double"),
        ("BYTES", "1", "JSON Value: 1 Type: Number is not of expected type: string"),
        ("BYTES", '{"b64": 1}', None),
        ("BYTES", '{"b64": "a"}', "Unable to base64 decode"),
        ("BYTES", '{"b64": "a$b="}', "Unable to base64 decode"),
    ],
)
def test_types_are_strict(make_api, kit, datatype, value, error):
    api = make_api(("m", kit.identity(datatype, -1)))

    answer = api.post("/v1/models/m:predict", f'{{"inputs": {{"x": [{value}]}}}}')

    assert answer.status_code == 400
    assert answer.json()["error"] == (error or 'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data')


@pytest.mark.parametrize(("datatype", "name"), [("FP16", "half"), ("BF16", "bfloat16")])
def test_half_precision_has_no_json(make_api, kit, datatype, name):
    api = make_api(("m", kit.identity(datatype, -1)))
    tensor = kit.spec(datatype, -1)
    outputs = Signature(inputs={"x": kit.spec("FP32", -1)}, outputs={"y": tensor})
    dtype = np.float16 if datatype == "FP16" else ml_dtypes.bfloat16
    api.hosting.add(
        "out", kit.Version(1, {"serving_default": outputs}, lambda _, inputs: {"y": inputs["x"].astype(dtype)})
    )

    asked = api.post("/v1/models/m:predict", {"inputs": [1.0]})
    answered = api.post("/v1/models/out:predict", {"inputs": [1.0]})

    assert (asked.status_code, asked.json()["error"]) == (501, f"Conversion of JSON Value: 1.0 to type: {name}")
    assert (answered.status_code, answered.json()["error"]) == (
        400,
        f"Failed to write JSON value for tensor type: {name}",
    )


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/v1/models/nobody", 404, "Could not find any versions of model nobody"),
        ("/v1/models/half/versions/9", 404, "Could not find version 9 of model half"),
        ("/v1/models/nobody/metadata", 404, "Servable not found for request: Latest(nobody)"),
        ("/v1/models/half/versions/9/metadata", 404, "Servable not found for request: Specific(half, 9)"),
        ("/v1/models/half/labels/old/metadata", 400, "Unrecognized servable version label: old"),
        ("/v1/models/metadata", 404, "Could not find any versions of model metadata"),
        # `versions` is no model here: the expression takes the number, and no name is left.
        ("/v1/models/versions/1", 400, "Missing model name in request."),
    ],
)
def test_looking_for_what_is_not_there(half, path, status, error):
    answer = half.get(path)

    assert (answer.status_code, answer.json()) == (status, {"error": error})


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.DEADLINE_EXCEEDED, 504),
        (Code.UNAVAILABLE, 503),
        (Code.RESOURCE_EXHAUSTED, 429),
        (Code.INTERNAL, 500),
        (Code.INVALID_ARGUMENT, 400),
    ],
)
def test_failures_of_the_run_have_their_status_and_are_recorded(half, code, status):
    half.hosting.failure = ServingError(code, "it went wrong")

    answer = half.post(HALF, {"instances": [1]})

    assert (answer.status_code, answer.json()) == (status, {"error": "it went wrong"})
    assert answer.headers["X-Model-Version"] == "2"
    assert [prediction.status for prediction in half.log.predictions] == [status]


def test_a_full_queue_says_when_to_come_back(half):
    half.hosting.refusal = ServingError(Code.RESOURCE_EXHAUSTED, "the queue is full", retry_after=3)
    assert half.post(HALF, {"instances": [1]}).headers["Retry-After"] == "3"

    half.hosting.refusal = ServingError(Code.RESOURCE_EXHAUSTED, "the queue is full")
    assert half.post(HALF, {"instances": [1]}).headers["Retry-After"] == "1"


def test_a_defect_of_ours_is_500_json_with_the_request_id(half):
    half.hosting.hosted["half"][2].compute = lambda *_: 1 / 0

    answer = half.post(HALF, {"instances": [1]}, headers={"x-request-id": "r-1"})

    assert answer.status_code == 500
    assert "r-1" in answer.json()["error"]
