# ruff: noqa: E501 - tables of requests and errors, one to a line
"""Unmodified clients against a real `windlass-server` with real TensorFlow models."""

import io
import json
import subprocess

import httpx
import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from openapi_spec_validator import validate
from PIL import Image

from windlass_contract.manifest import ImageInput
from windlass_server.tensors import to_raw
from windlass_testing import connections_closed, models
from windlass_testing.one_machine import OneMachine, wait_until

ROWS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A replica of its own choice, over these models."""
    machine = OneMachine(tmp_path_factory.mktemp("server"))
    models.half_plus_two(machine.models)
    models.half_plus_three(machine.models)
    models.identity(machine.models)
    models.affine_tflite(machine.models, "lite", 1, 0.5, 2)
    # Class n is the brightness of the picture's row n.
    weights = np.kron(np.eye(ROWS), np.ones((ROWS, 1)))
    models.scorer(
        machine.models,
        "rows",
        1,
        weights.tolist(),
        image=ImageInput(input="x", width=ROWS, height=ROWS, channels=1, scale=1 / 255),
        classes=[f"row-{index}" for index in range(ROWS)],
    )
    replica = machine.add_replica(managed=False)
    try:
        wait_until("the server is ready", replica.ready, timeout=150, last_seen=replica.process.tail)
        yield replica.url
    finally:
        machine.stop()


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.removeprefix("http://")) as client:
        yield client


def curl(*arguments):
    done = subprocess.run(
        ["curl", "-sS", "-w", "\n%{http_code}", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


@pytest.mark.parametrize(
    ("model", "answer"),
    [("half_plus_two", [2.5, 3.0, 4.5]), ("half_plus_three", [3.5, 4.0, 5.5]), ("lite", [2.5, 3.0, 4.5])],
)
def test_tensorflow_servings_first_example(server, model, answer):
    status, body = curl("-d", '{"instances": [1.0, 2.0, 5.0]}', "-X", "POST", f"{server}/v1/models/{model}:predict")

    assert (status, json.loads(body)) == (200, {"predictions": answer})


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("half_plus_three/versions/1:predict", {"instances": [1.0, 2.0, 5.0]}, {"predictions": [3.5, 4.0, 5.5]}),
        ("half_plus_three:predict", {"inputs": [[1.0], [2.0]]}, {"outputs": [[3.5], [4.0]]}),
        ("half_plus_two:regress", {"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}]}, {"results": [42.0]}),
        ("half_plus_two:regress", {"signature_name": "regress_x_to_y", "context": {"x": 2.0}, "examples": [{}, {"x": 4.0}]}, {"results": [3.0, 4.0]}),
        ("half_plus_two:classify", {"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}]}, {"results": [[["", 12.0]]]}),
    ],
)  # fmt: skip
def test_tensorflow_servings_documented_requests(server, path, body, answer):
    response = httpx.post(f"{server}/v1/models/{path}", json=body)

    assert (response.status_code, response.json()) == (200, answer)
    assert response.headers["X-Model-Version"] == "1"
    assert response.headers["X-Model-Digest"].startswith("sha256:")


def test_status_and_metadata_of_a_real_model(server):
    status, body = curl(f"{server}/v1/models/half_plus_two")
    assert status == 200
    assert json.loads(body)["model_version_status"] == [
        {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
    signatures = httpx.get(f"{server}/v1/models/half_plus_two/metadata").json()["metadata"]["signature_def"]
    assert signatures["signature_def"]["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("half_plus_two:predict", '{"instances": ["x"]}', 400, "is not of expected type: float"),
        ("nobody:predict", '{"instances": [1]}', 404, "Servable not found for request: Latest(nobody)"),
        ("half_plus_two/versions/99:predict", '{"instances": [1]}', 404, "Servable not found for request: Specific(half_plus_two, 99)"),
        ("half_plus_two/labels/old:predict", '{"instances": [1]}', 400, "Unrecognized servable version label: old"),
        ("half_plus_two:regress", '{"signature_name": "regress_x_to_y", "examples": [{"x": 80}]}', 400, "Data types don't match"),
        ("half_plus_two/", "", 400, "Malformed request: POST /v1/models/half_plus_two/"),
    ],
)  # fmt: skip
def test_real_errors_are_tensorflow_servings(server, path, body, status, error):
    code, answer = curl("-d", body, f"{server}/v1/models/{path}")

    assert code == status
    assert error in json.loads(answer)["error"]


def test_bytes_of_a_real_model_are_base64_by_name(server):
    body = {"signature_name": "only_raw_bytes", "instances": [[{"b64": "/w=="}]]}
    assert httpx.post(f"{server}/v1/models/identity:predict", json=body).json() == {"predictions": [[{"b64": "/w=="}]]}


TRITON_SAMPLES = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], dtype=np.uint8),
    "UINT16": np.array([[0, 65535]], dtype=np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], dtype=np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], dtype=np.uint64),
    "INT8": np.array([[-128, 127]], dtype=np.int8),
    "INT16": np.array([[-(2**15), 2**15 - 1]], dtype=np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1]], dtype=np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1]], dtype=np.int64),
    "FP16": np.array([[0.1, np.inf]], dtype=np.float16),
    "FP32": np.array([[0.1, -2.0]], dtype=np.float32),
    "FP64": np.array([[0.1, 1e300]], dtype=np.float64),
    "BYTES": np.array([[b"text", "grüße".encode()]], dtype=object),
    "BF16": np.array([[0.1, -3.0]], dtype=ml_dtypes.bfloat16),
}
IN_JSON = [datatype for datatype in TRITON_SAMPLES if datatype not in {"FP16", "BF16"}]


def triton_input(module, datatype, binary):
    entry = module.InferInput("x", [1, 2], datatype)
    entry.set_data_from_numpy(TRITON_SAMPLES[datatype], binary_data=binary)
    return entry


def check(result, datatype):
    assert result.get_output("y")["datatype"] == datatype
    answer, sample = result.as_numpy("y"), TRITON_SAMPLES[datatype]
    # From JSON the client makes text of BYTES.
    texts = [[element.encode() if isinstance(element, str) else element for element in row] for row in answer]
    assert np.array_equal(np.array(texts, dtype=object) if datatype == "BYTES" else answer, sample)


def signature(datatype):
    return {"signature_name": f"only_{datatype.lower()}"}


@pytest.mark.parametrize("datatype", TRITON_SAMPLES)
def test_tritonclient_sends_and_receives_every_type_as_bytes(client, datatype):
    result = client.infer(
        "identity", [triton_input(triton, datatype, True)], parameters=signature(datatype), request_id="7"
    )

    check(result, datatype)
    assert result.get_response()["id"] == "7"


@pytest.mark.parametrize("datatype", IN_JSON)
def test_tritonclient_sends_and_receives_every_type_as_json(client, datatype):
    outputs = [triton.InferRequestedOutput("y", binary_data=False)]

    check(
        client.infer(
            "identity", [triton_input(triton, datatype, False)], outputs=outputs, parameters=signature(datatype)
        ),
        datatype,
    )


def test_asyncio_tritonclient_sends_and_receives_every_type(server):
    async def ask_all():
        async with triton_aio.InferenceServerClient(server.removeprefix("http://")) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("identity")
            for datatype in TRITON_SAMPLES:
                sent = [triton_input(triton_aio, datatype, True)]
                check(await client.infer("identity", sent, parameters=signature(datatype)), datatype)
            for datatype in IN_JSON:
                sent = [triton_input(triton_aio, datatype, False)]
                outputs = [triton_aio.InferRequestedOutput("y", binary_data=False)]
                check(await client.infer("identity", sent, outputs=outputs, parameters=signature(datatype)), datatype)

    connections_closed.run(ask_all())


@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("received", [None, "gzip", "deflate"])
def test_tritonclient_compresses_both_ways(client, sent, received):
    rows = np.arange(3000, dtype=np.float32).reshape(-1, 1)
    entry = triton.InferInput("x", rows.shape, "FP32")
    entry.set_data_from_numpy(rows)

    result = client.infer(
        "half_plus_two", [entry], request_compression_algorithm=sent, response_compression_algorithm=received
    )

    assert np.array_equal(result.as_numpy("y"), rows * 0.5 + 2)


def test_tritonclient_asks_everything_else(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("half_plus_two", "1")
    assert not client.is_model_ready("half_plus_two", "9")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"] == "windlass"
    metadata = client.get_model_metadata("half_plus_two")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]
    assert client.get_model_metadata("lite")["platform"] == "tensorflow_lite"
    index = client.get_model_repository_index()
    assert {"name": "half_plus_three", "version": "1", "state": "READY", "reason": ""} in index
    with pytest.raises(triton.InferenceServerException, match="rollout"):
        client.load_model("half_plus_two")


def test_tritonclient_sees_errors_as_text(client):
    wrong = triton.InferInput("x", [1, 2], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 2), dtype=np.float32))

    with pytest.raises(triton.InferenceServerException, match=r"Expected \[-1,1\], got \[1,2\]"):
        client.infer("half_plus_two", [wrong])
    with pytest.raises(triton.InferenceServerException, match="nobody"):
        client.infer("nobody", [wrong])


def test_tritonclient_sends_an_empty_tensor(client):
    entry = triton.InferInput("x", [0, 2], "FP32")
    entry.set_data_from_numpy(np.zeros((0, 2), dtype=np.float32))

    result = client.infer("identity", [entry], parameters={"signature_name": "only_fp32"})

    assert result.as_numpy("y").shape == (0, 2)


def test_all_types_travel_in_one_request(client):
    entries, expected = [], {}
    for datatype, sample in {**TRITON_SAMPLES, "RAW_BYTES": TRITON_SAMPLES["BYTES"]}.items():
        name = datatype.lower()
        entry = triton.InferInput(name, [1, 2], datatype.removeprefix("RAW_"))
        entry.set_data_from_numpy(sample)
        entries.append(entry)
        expected[name] = sample

    result = client.infer("identity", entries)

    for name, sample in expected.items():
        assert np.array_equal(result.as_numpy(name), sample), name


def test_a_raw_request_to_a_real_model(server):
    data = np.array([3.0], dtype="<f4").tobytes()

    status, _ = curl(
        *("--data-binary", "@-", "-H", "Inference-Header-Content-Length: 0", "-o", "/dev/null"),
        f"{server}/v2/models/half_plus_two/infer",
    )
    answer = httpx.post(
        f"{server}/v2/models/half_plus_two/infer", content=data, headers={"Inference-Header-Content-Length": "0"}
    )

    assert status == 400  # curl had nothing to send
    assert answer.content[int(answer.headers["Inference-Header-Content-Length"]) :] == np.array([3.5], "<f4").tobytes()


def test_bfloat16_is_exact_to_the_bit(server):
    data = bytes(to_raw(np.array([[0.1, -1e30]], dtype=ml_dtypes.bfloat16)))
    header = json.dumps(
        {
            "inputs": [{"name": "x", "shape": [1, 2], "datatype": "BF16", "parameters": {"binary_data_size": 4}}],
            "parameters": signature("BF16") | {"binary_data_output": True},
        }
    ).encode()

    answer = httpx.post(
        f"{server}/v2/models/identity/infer",
        content=header + data,
        headers={"Inference-Header-Content-Length": str(len(header))},
    )

    assert answer.content[int(answer.headers["Inference-Header-Content-Length"]) :] == data


def test_curl_sends_an_image(server, tmp_path):
    pixels = np.zeros((ROWS, ROWS), dtype=np.uint8)
    pixels[5] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(buffer, "PNG")
    path = tmp_path / "five.png"
    path.write_bytes(buffer.getvalue())

    in_a_form = curl("-F", f"image=@{path}", f"{server}/predict/rows?top=2")
    as_the_body = curl("--data-binary", f"@{path}", "-H", "Content-Type: image/png", f"{server}/predict/rows?top=2")

    for status, body in (in_a_form, as_the_body):
        answer = json.loads(body)
        assert (status, answer["model"], answer["version"]) == (200, "rows", 1)
        assert answer["predictions"][0]["class"] == "row-5"
        assert answer["predictions"][0]["score"] > 0.9
    assert curl("-F", f"image=@{path}", f"{server}/predict")[0] == 400


def test_a_worker_that_could_abort_is_never_fed(server):
    for shape in ([], [2, 3, 4], [1, 1, 1, 1]):
        data = np.zeros(shape).tolist()
        assert httpx.post(f"{server}/v1/models/half_plus_two:predict", json={"inputs": data}).status_code == 400
    assert httpx.post(f"{server}/v1/models/half_plus_two:predict", json={"instances": [1.0]}).status_code == 200


def test_health_and_documentation_of_a_real_server(server):
    for path in ("/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"):
        assert httpx.get(server + path).status_code == 200
    assert httpx.head(f"{server}/health").status_code == 200
    validate(httpx.get(f"{server}/openapi.json").json())
    assert curl("-o", "/dev/null", f"{server}/docs")[0] == 200
    assert httpx.get(f"{server}/health", headers={"X-Request-Id": "one"}).headers.get_list("X-Request-Id") == ["one"]
