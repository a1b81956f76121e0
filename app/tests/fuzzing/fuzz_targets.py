# ruff: noqa: E501 - inputs as they are
"""What is fuzzed: each takes any bytes and returns, or raises what callers expect. Anything else is a finding."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

from windlass_contract.control import PlanAnswer, ReportAnswer
from windlass_contract.document import DocumentError, load_yaml
from windlass_contract.manifest import DataType, FileEntry, Manifest, ModelFormat, Signature, TensorSpec
from windlass_contract.model_version import ModelVersion
from windlass_contract.record import ServerState
from windlass_contract.samples import AcceptanceSamples
from windlass_contract.saved_model_graph import meta_graphs
from windlass_contract.tflite_operators import custom_operators
from windlass_server.api.images import check_header, read_header
from windlass_server.api.json_text import JsonSyntaxError, parse
from windlass_server.api.limits import Limits
from windlass_server.api.multipart import only_file
from windlass_server.api.oip_infer import read_inference
from windlass_server.api.tfs_examples import parse_examples
from windlass_server.api.tfs_json import InvalidValueError, parse_predict
from windlass_server.errors import ServingError
from windlass_server.hosting.hosting import Admission
from windlass_server.hosting.parity import read_parity

LIMITS = Limits(max_body_bytes=1 << 20, max_json_bytes=1 << 20, max_json_elements=10_000, max_tensor_elements=10_000)
SIGNATURE = Signature(
    inputs={
        "x": TensorSpec(datatype=DataType.FP32, shape=[-1, 2]),
        "s": TensorSpec(datatype=DataType.BYTES, shape=[-1]),
        "b": TensorSpec(datatype=DataType.BF16, shape=None),
    },
    outputs={"y": TensorSpec(datatype=DataType.FP32, shape=[-1])},
)
STRINGS = Signature(inputs={"s": SIGNATURE.inputs["s"]}, outputs=SIGNATURE.outputs)


def _admission(signature: Signature) -> Admission:
    signatures = {"serving_default": signature}
    files = [FileEntry(path="saved_model.pb", size=1, sha256="0" * 64)]
    manifest = Manifest(model="m", version=1, format=ModelFormat.SAVED_MODEL, files=files, signatures=signatures)
    return Admission("m", 1, "sha256:" + "0" * 64, 1, False, manifest, signatures)


WHOLE, RAW = _admission(SIGNATURE), _admission(STRINGS)


def _refused(error: ServingError) -> None:
    if error.http_status >= 500 and error.http_status != 501:
        raise error


def binary(data: bytes) -> None:
    """The Open Inference Protocol's JSON with binary tensors behind it: two bytes of length, then the body."""
    length = int.from_bytes(data[:2], "little")
    headers = {b"inference-header-content-length": b"%d" % length}
    for admission, given in (
        (WHOLE, headers),
        (WHOLE, {}),
        (RAW, headers),
        (RAW, {}),
        (RAW, {b"inference-header-content-length": b"0"}),
    ):
        try:
            read_inference(data[2:], given, admission, LIMITS)
        except ServingError as error:
            _refused(error)


def rows(data: bytes) -> None:
    """TensorFlow Serving's JSON."""
    try:
        document = parse(data, LIMITS, trailing=True)
    except (JsonSyntaxError, ServingError):
        return
    if not isinstance(document, dict):
        return
    for read in (
        lambda: parse_predict(document, SIGNATURE),
        lambda: parse_predict(document, STRINGS),
        lambda: parse_examples(document),
    ):
        try:
            read()
        except ServingError as error:
            _refused(error)
        except InvalidValueError:
            continue


def manifest(data: bytes) -> None:
    """manifest.json."""
    try:
        Manifest.parse_json(data, "fuzz")
    except DocumentError as error:
        str(error)


def model_version(data: bytes) -> None:
    """A ModelVersion file."""
    try:
        ModelVersion.parse(load_yaml(data, "fuzz"), "fuzz")
    except DocumentError as error:
        str(error)


def parity(data: bytes) -> None:
    """A version's .npz of parity samples: as it is, and one whose array is this."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("input:s.npy", data)
    for content in (data, stream.getvalue()):
        try:
            read_parity(content, STRINGS)
        except ValueError as error:
            str(error)


def graph(data: bytes) -> None:
    """saved_model.pb and a .tflite file, as far as they are read before the framework reads them."""
    for read in (lambda: list(meta_graphs(memoryview(data))), lambda: custom_operators(memoryview(data))):
        try:
            read()
        except ValueError as error:
            str(error)


def plan(data: bytes) -> None:
    """What the operator answers, and what is kept of it in files."""
    for kind in (PlanAnswer, ReportAnswer, ServerState, AcceptanceSamples):
        try:
            kind.parse_json(data, "fuzz")
        except DocumentError as error:
            str(error)


def image(data: bytes) -> None:
    """An image's header, and a form with one."""
    for read in (
        lambda: check_header(read_header(data), LIMITS),
        lambda: only_file(data, b"multipart/form-data; boundary=b"),
    ):
        try:
            read()
        except ServingError as error:
            _refused(error)


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (binary, rows, manifest, model_version, parity, graph, plan, image)
}
SEEDS: dict[str, list[bytes]] = {
    "binary": [
        b'\x8f\x00{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]},{"name":"s","datatype":"BYTES",'
        b'"shape":[1],"parameters":{"binary_data_size":5}}]}\x01\x00\x00\x00a',
        b"\x00\x00\x01\x00\x00\x00a",
    ],
    "rows": [b'{"instances":[{"x":[1,2],"s":{"b64":"YQ=="},"b":NaN}]}', b'{"inputs":{"s":["a"]}}', b'{"context":{"s":"a"},"examples":[{"x":1.5}]}'],
    "manifest": [
        b'{"apiVersion":"windlass.dev/v1alpha1","kind":"Manifest","model":"m","version":1,"format":"saved_model","files":'
        b'[{"path":"saved_model.pb","size":1,"sha256":"' + b"0" * 64 + b'"}],"signatures":{"serving_default":{"inputs":'
        b'{"x":{"datatype":"FP32","shape":[-1]}},"outputs":{"y":{"datatype":"FP32","shape":null}}}}}',
    ],
    "model_version": [
        b"apiVersion: windlass.dev/v1alpha1\nkind: ModelVersion\nmetadata: {name: m-1}\nspec:\n  server: s\n  model: m\n"
        b"  version: 1\n  artifact: {uri: 'volume://'}\n  rollout: {steps: [{weight: 1%, duration: 2m}]}\n",
    ],
    "parity": [
        b"\x93NUMPY\x01\x00v\x00{'descr': '|S1', 'fortran_order': False, 'shape': (1,), }".ljust(127) + b"\na",
        b"\x93NUMPY\x02\x00v\x00\x00\x00{'descr': '<f4', 'fortran_order': True, 'shape': (1, 0), }".ljust(129) + b"\n",
    ],
    "graph": [
        b"\x08\x01\x12\x18\x0a\x07*\x05serve\x12\x0d\x0a\x0b\x0a\x01x\x12\x06MatMul",
        b"\x1c\x00\x00\x00TFL3" + bytes(20),
    ],
    "plan": [b'{"plan":null}', b'{"epoch":1,"renewed":["m"]}', b'{"samples":[{"inputs":{"x":1},"expect":{"values":1}}]}'],
    "image": [
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x01\x00\x00\x00\x00", b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x01\x00\x01",
        b"RIFF\x00\x00\x00\x00WEBPVP8L\x00\x00\x00\x00\x2f\x00\x00\x00\x00",
        b'--b\r\nContent-Disposition: form-data; name="i"; filename="i"\r\n\r\nx\r\n--b--\r\n',
    ],
}  # fmt: skip
"""Where the search starts."""
