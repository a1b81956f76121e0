# ruff: noqa: E501 - tables of requests and errors, one to a line
"""Open Inference Protocol v2: tensors as raw bytes behind the JSON, or as the whole body."""

import json
import struct
import tracemalloc

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from windlass_contract.manifest import DataType, TensorSpec
from windlass_server.api.oip_tensors import from_binary, from_raw_body, read_shape, to_binary
from windlass_server.errors import ServingError
from windlass_server.tensors import NUMPY_TYPE, to_raw

URL = "/v2/models/m/infer"


def send(api, document, *blobs, url=URL, **headers):
    text = json.dumps(document).encode()
    return api.post(
        url,
        b"".join([text, *blobs]),
        headers={"inference-header-content-length": str(len(text)), "content-type": "application/octet-stream"}
        | headers,
    )


def binary_input(datatype, shape, blob, name="x"):
    parameters = {"binary_data_size": len(blob)}
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": parameters}


def receive(answer):
    """The JSON and what follows it."""
    length = int(answer.headers["inference-header-content-length"])
    return json.loads(answer.content[:length]), answer.content[length:]


SAMPLES = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], dtype=np.uint8),
    "UINT16": np.array([0, 65535], dtype=np.uint16),
    "UINT32": np.array([0, 2**32 - 1], dtype=np.uint32),
    "UINT64": np.array([0, 2**64 - 1], dtype=np.uint64),
    "INT8": np.array([-128, 127], dtype=np.int8),
    "INT16": np.array([-(2**15), 2**15 - 1], dtype=np.int16),
    "INT32": np.array([-(2**31), 2**31 - 1], dtype=np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], dtype=np.int64),
    "FP16": np.array([0.1, np.inf], dtype=np.float16),
    "BF16": np.array([0.1, -3.0], dtype=ml_dtypes.bfloat16),
    "FP32": np.array([0.1, np.nan], dtype=np.float32),
    "FP64": np.array([0.1, -np.inf], dtype=np.float64),
    "BYTES": np.array([b"", b"\xff\x00text"], dtype=object),
}


@pytest.mark.parametrize("datatype", SAMPLES)
def test_every_datatype_passes_through_bytes(make_api, kit, datatype):
    api = make_api(("m", kit.identity(datatype, -1)))
    blob = bytes(to_raw(SAMPLES[datatype]))
    document = {"inputs": [binary_input(datatype, [2], blob)], "parameters": {"binary_data_output": True}}

    answer = send(api, document, blob)

    text, tail = receive(answer)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert text["outputs"] == [
        {"name": "y", "datatype": datatype, "shape": [2], "parameters": {"binary_data_size": len(blob)}}
    ]
    assert tail == blob


def test_outputs_choose_binary_for_themselves(make_api, kit):
    api = make_api(("m", kit.pair()))
    a, b = np.array([1.5], dtype="<f4").tobytes(), np.array([2], dtype="<i4").tobytes()
    inputs = [binary_input("INT32", [1], b, "b"), binary_input("FP32", [1], a, "a")]

    def ask(outputs, **parameters):
        return send(api, {"inputs": inputs, "outputs": outputs, "parameters": parameters}, b, a)

    text, tail = receive(ask([{"name": "sum", "parameters": {"binary_data": True}}, {"name": "difference"}]))
    assert [("data" in output) for output in text["outputs"]] == [False, True]
    assert np.frombuffer(tail, "<f4") == [3.5]
    text, tail = receive(
        ask([{"name": "sum", "parameters": {"binary_data": False}}, {"name": "difference"}], binary_data_output=True)
    )
    assert [("data" in output) for output in text["outputs"]] == [True, False]
    assert np.frombuffer(tail, "<f4") == [-0.5]
    plain = ask([])
    assert plain.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in plain.headers


def test_json_and_binary_inputs_mix(make_api, kit):
    api = make_api(("m", kit.pair()))
    blob = np.array([2], dtype="<i4").tobytes()
    inputs = [{"name": "a", "shape": [1], "datatype": "FP32", "data": [1]}, binary_input("INT32", [1], blob, "b")]

    assert send(api, {"inputs": inputs}, blob).json()["outputs"][0]["data"] == [3.0]


def test_an_empty_tensor_has_zero_bytes(make_api, kit):
    api = make_api(("m", kit.identity("FP32", -1, 3)))

    assert send(api, {"inputs": [binary_input("FP32", [0, 3], b"")]}).json()["outputs"][0]["data"] == []


@pytest.mark.parametrize(
    ("inputs", "tail", "header", "error"),
    [
        ([binary_input("FP32", [2], b"x" * 8)], b"x" * 7, None, "unexpected size for input 'x' for model 'm', expecting 1 additional bytes"),
        ([binary_input("FP32", [2], b"x" * 8)], b"x" * 9, None, "unexpected additional input data for model 'm'"),
        ([binary_input("FP32", [2], b"x" * 7)], b"x" * 7, None, "unexpected size for input 'x' for model 'm': 8 bytes are expected for shape [2], got 7"),
        ([{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}], b"x", None, "unexpected additional input data for model 'm'"),
        ([], b"", "99999", "Inference-Header-Content-Length is 99999, but the body has 14 bytes"),
        ([], b"", "-1", "Inference-Header-Content-Length must be a number, got '-1'"),
        ([], b"", "1" * 30, "Inference-Header-Content-Length must be a number, got '" + "1" * 30 + "'"),
        ([], b"", "5", "failed to parse the request JSON buffer: Missing a closing quotation mark in string. at offset: 5"),
    ],
)  # fmt: skip
def test_sizes_must_agree_to_the_byte(make_api, kit, inputs, tail, header, error):
    api = make_api(("m", kit.identity("FP32", -1)))
    headers = {"inference-header-content-length": header} if header else {}

    answer = send(api, {"inputs": inputs}, tail, **headers)

    assert (answer.status_code, answer.json()) == (400, {"error": error})
    assert api.hosting.asked == []


@pytest.mark.parametrize(
    "blob",
    [
        b"\x01\x00\x00",
        struct.pack("<I", 5) + b"abc",
        struct.pack("<I", 2**32 - 1) + b"abc",
        struct.pack("<I", 1) + b"abc",
    ],
)
def test_lengths_of_bytes_must_agree(make_api, kit, blob):
    api = make_api(("m", kit.identity("BYTES", -1)))

    answer = send(api, {"inputs": [binary_input("BYTES", [1], blob)]}, blob)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("unexpected size for input 'x' for model 'm': ")


@pytest.mark.parametrize(
    ("datatype", "shape", "body", "expected_shape"),
    [
        ("FP32", (-1, 2), b"\0" * 8, [1, 2]),
        ("FP32", (-1, -1), b"\0" * 12, [1, 3]),
        ("UINT8", (-1, 2, -1, 3), b"\0" * 24, [1, 2, 4, 3]),
        ("BYTES", (-1,), b"a JPEG", [1]),
        ("BYTES", (-1, 1), b"", [1, 1]),
        ("BYTES", (None,), b"x", [1]),
    ],
)
def test_a_raw_request_is_a_batch_of_one(make_api, kit, datatype, shape, body, expected_shape):
    api = make_api(("m", kit.identity(datatype, *shape)))

    answer = api.post(URL, body, headers={"inference-header-content-length": "0"})

    text, tail = receive(answer)
    assert text["outputs"][0]["shape"] == expected_shape
    assert tail == (struct.pack("<I", len(body)) + body if datatype == "BYTES" else body)


@pytest.mark.parametrize(
    ("datatype", "shape", "body"),
    [
        ("FP32", (-1, 2), b"\0" * 7),
        ("FP32", (-1, 2), b"\0" * 16),
        ("FP32", (-1, -1, -1), b"\0" * 8),
        ("FP32", (None,), b"\0" * 8),
        ("FP32", (-1, -1), b"\0" * 7),
        ("FP32", (-1, -1, 0), b""),
        ("BYTES", (-1, 3), b"x"),
    ],
)
def test_a_raw_request_that_does_not_fit_is_refused(make_api, kit, datatype, shape, body):
    api = make_api(("m", kit.identity(datatype, *shape)))

    assert api.post(URL, body, headers={"inference-header-content-length": "0"}).status_code == 400


def test_a_raw_request_needs_a_single_input(make_api, kit):
    api = make_api(("m", kit.pair()))

    answer = api.post(URL, b"", headers={"inference-header-content-length": "0"})

    assert "needs a model with one input; model 'm' has 2" in answer.json()["error"]


def test_the_header_counts_the_uncompressed_json(make_api, kit):
    api = make_api(("m", kit.identity("FP32", -1)))
    blob = np.zeros(10_000, dtype="<f4").tobytes()
    document = {"inputs": [binary_input("FP32", [10_000], blob)], "parameters": {"binary_data_output": True}}

    answer = send(api, document, blob, **{"accept-encoding": "deflate"})

    assert answer.headers["content-encoding"] == "deflate"
    assert receive(answer)[1] == blob


shapes = st.lists(
    st.one_of(st.integers(0, 4), st.sampled_from([2147483647, 2147483648, 1099511627776, 2**63, -1, 65536])),
    max_size=18,
)


@settings(max_examples=300, deadline=None)
@given(datatype=st.sampled_from(list(DataType)), shape=shapes, data=st.binary(max_size=64))
def test_no_bytes_crash_the_reader_or_make_it_allocate(datatype, shape, data):
    tensor, status = None, 200
    tracemalloc.start()
    try:
        tensor = from_binary(memoryview(data), datatype, read_shape(shape, "x", 1 << 26), "x", "m")
    except ServingError as error:
        status = error.http_status
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1 << 20
    assert status in {200, 400, 413}
    if tensor is not None and datatype is not DataType.BOOL:
        assert to_binary(tensor) == data


@settings(max_examples=200, deadline=None)
@given(
    datatype=st.sampled_from(list(DataType)),
    shape=st.one_of(st.none(), st.lists(st.sampled_from([-1, 0, 1, 2, 2147483647]), max_size=16)),
    data=st.binary(max_size=64),
)
def test_no_raw_request_crashes_the_reader(datatype, shape, data):
    tensor, status = None, 400
    try:
        tensor = from_raw_body(data, TensorSpec(datatype=datatype, shape=shape), "x", "m")
    except ServingError as error:
        status = error.http_status
    assert status == 400
    if tensor is not None and datatype is not DataType.BYTES:
        assert tensor.size * NUMPY_TYPE[datatype].itemsize <= len(data)
