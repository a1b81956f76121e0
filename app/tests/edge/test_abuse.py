# ruff: noqa: E501 - tables of requests and answers, one to a line
"""A real `windlass-server` under abuse: the right status code, memory of its front process bounded (measured), and
another client that sees nothing but 200."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import subprocess
import zlib
from collections import Counter
from pathlib import Path

import httpx
import pytest
from abuse_rig import MIB, PREDICT, Front, ask_and_not_take, trickle, upload

from windlass_contract.manifest import ImageInput
from windlass_testing.models import affine_tflite, scorer
from windlass_testing.one_machine import OneMachine, wait_until

pytestmark = [pytest.mark.hardening, pytest.mark.evidence, pytest.mark.alone]


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """y = 2 x, which the others ask; the same once more, for who keeps a model busy; and one that takes images."""
    machine = OneMachine(tmp_path_factory.mktemp("abused"))
    affine_tflite(machine.models, "m", 1, 2, 0)
    affine_tflite(machine.models, "busy", 1, 2, 0)
    how = ImageInput(input="x", width=2, height=2, channels=1)
    scorer(machine.models, "picture", 1, [[1.0, 0.0]] * 4, image=how, classes=["a", "b"])
    replica = machine.add_replica(
        "abused", "--head-timeout", "3", "--body-timeout", "3", "--keep-alive", "60", managed=False
    )
    try:
        wait_until("the server is ready", replica.ready, timeout=150, last_seen=replica.process.tail)
        yield Front(replica)
        assert replica.process.running
        log = replica.process.log.read_text()
        assert "Traceback" not in log
        assert "request failed" not in log
    finally:
        machine.stop()


def bomb(encoding: str, size: int) -> bytes:
    """Zeros, a thousand times smaller."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    data = b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB))
    return data + packer.flush()


@pytest.mark.parametrize(
    ("name", "content", "headers", "status", "mib"),
    [
        ("gzip 1:1000, 1 GiB", lambda: bomb("gzip", 1024 * MIB), {"content_encoding": "gzip"}, 413, 160),
        ("deflate 1:1000, 1 GiB", lambda: bomb("deflate", 1024 * MIB), {"content_encoding": "deflate"}, 413, 160),
        ("gzip in gzip, told once", lambda: gzip.compress(bomb("gzip", 64 * MIB)), {"content_encoding": "gzip"}, 400, 100),
        ("gzip in gzip, told twice", lambda: gzip.compress(bomb("gzip", 64 * MIB)), {"content_encoding": "gzip, gzip"}, 400, 10),
        ("JSON a million levels deep", lambda: b'{"instances":' + b"[" * 10**6 + b"]" * 10**6 + b"}", {}, 400, 60),
        ("JSON objects a million deep", lambda: b'{"a":' * 10**6 + b"1" + b"}" * 10**6, {}, 400, 120),
        ("ten million values", lambda: b'{"instances":[' + b"1," * 10**7 + b"1]}", {}, 413, 160),
        ("a body larger than is read", lambda: bytes(65 * MIB), {}, 413, 80),
        ("one enormous integer", lambda: b'{"instances":[[' + b"9" * 10**6 + b"]]}", {}, 400, 60),
        ("an enormous exponent", lambda: b'{"instances":[[1e999999999]]}', {}, 400, 10),
        ("a million equal keys", lambda: b'{"instances":[[1.0]]' + b',"a":1' * 10**6 + b"}", {}, 200, 160),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_bodies_are_bounded_before_memory_is_spent(front, name, content, headers, status, mib):
    content = content()
    with front.bounded(name, mib):
        answer = front.post(PREDICT, content, **headers)

    assert answer.status_code == status, answer.text[:300]
    if status != 200:
        assert answer.json()["error"]


def v2(shape, **fields) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, **fields}]}).encode()


@pytest.mark.parametrize(
    ("name", "body", "tail", "status"),
    [
        ("shape [2147483647]", v2([2147483647], data=[1.0]), b"", 413),
        ("shape [2147483647, 1]", v2([2147483647, 1], data=[1.0]), b"", 413),
        ("shape that multiplies beyond 64 bits", v2([2**40, 2**40], data=[1.0]), b"", (400, 413)),
        ("a shape of a hundred dimensions", v2([1] * 100, data=[1.0]), b"", 400),
        ("negative shape", v2([-1, 1], data=[1.0]), b"", 400),
        ("a million times zero elements", v2([2**31 - 1, 0], data=[]), b"", 413),
        ("an enormous dimension", v2([10**400, 1], data=[1.0]), b"", 400),
        ("binary data beyond the end", v2([1, 1], parameters={"binary_data_size": 2**62}), b"\0\0\0\0", 400),
        ("negative binary data", v2([1, 1], parameters={"binary_data_size": -4}), b"\0\0\0\0", 400),
        ("more binary data than said", v2([1, 1], parameters={"binary_data_size": 4}), b"\0" * 8, 400),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)  # fmt: skip
def test_tensors_are_bounded_before_memory_is_spent(front, name, body, tail, status):
    with front.bounded(name, 10):
        answer = front.post("/v2/models/m/infer", body + tail, inference_header_content_length=str(len(body)))

    assert answer.status_code in (status if isinstance(status, tuple) else (status,)), answer.text[:300]
    assert answer.json()["error"]


def test_struct_is_what_bytes_lengths_are_made_of(front):
    """BYTES elements that say they are longer than what is there: only a model of strings takes them, so here the
    parser is asked directly."""
    from windlass_contract.manifest import DataType
    from windlass_server.api.oip_tensors import from_binary
    from windlass_server.errors import ServingError

    for raw in (struct.pack("<I", 2**32 - 1) + b"ab", struct.pack("<I", 3) + b"ab", b"\0\0"):
        with pytest.raises(ServingError) as caught:
            from_binary(memoryview(raw), DataType.BYTES, (1,), "x", "m")
        assert caught.value.http_status == 400


def test_a_small_file_that_is_a_huge_image_is_refused_by_its_header(front, images):
    data = images.png(30_000, 30_000)
    assert len(data) < 250_000
    with front.bounded("PNG of 30,000 x 30,000", 10):
        answer = front.post("/predict/picture", data, content_type="image/png")

    assert (answer.status_code, "30000 x 30000 pixels" in answer.json()["error"]) == (413, True)


def test_images_of_other_formats_are_not_even_opened(front):
    for data in (b"GIF89a" + bytes(100), b"II*\0" + bytes(100), b"%!PS-Adobe-3.0 EPSF-3.0\n", b"BM" + bytes(100)):
        answer = front.post("/predict/picture", data, content_type="image/gif")
        assert (answer.status_code, "a JPEG, PNG or WebP image is expected" in answer.json()["error"]) == (400, True)


def test_a_large_image_is_decoded_elsewhere(front, images):
    small, large = images.picture(), images.png(7000, 7000, bits=8, colour=2)
    assert front.post("/predict/picture", small, content_type="image/png").status_code == 200
    with front.bounded("PNG of 7,000 x 7,000 in colour", 20):  # 147 MB decoded
        answer = front.post("/predict/picture", large, content_type="image/png")

    assert answer.status_code == 200


# --- many, slow and half-closed ---


@pytest.mark.parametrize(
    ("what", "head"),
    [
        ("500 senders of slow headers", b"GET /readyz HTTP/1.1\r\nhost: x\r\na: "),
        ("500 senders of slow bodies", b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"),
        ("500 senders of slow chunks", b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n"),
    ],
)  # fmt: skip
def test_slow_senders_are_cut_off(front, what, head):
    with front.bounded(what, 40):
        answers = trickle(front, [head] * 500, b"x" if b"chunked" not in head else b"")
    assert [answer.split(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 408 Request Timeout"] * 500


IDLE = """
import socket, sys, resource
host, port, count, half = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "half"
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
sockets = []
for number in range(count):
    # Addresses of loopback of its own: one alone runs out of ports.
    each = socket.socket()
    each.bind((f"127.0.0.{2 + number % 4}", 0))
    each.connect((host, port))
    if half:
        each.send(b"GET / HTTP/1.1\\r\\n")
        each.shutdown(socket.SHUT_WR)
    sockets.append(each)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("what", "how", "mib"),
    [
        ("10,000 idle connections", "idle", 100),
        ("10,000 half-closed sockets", "half", 60),
    ],
)
def test_thousands_of_silent_connections_cost_little_and_slow_nobody(front, what, how, mib):
    host, port = front.address
    with front.bounded(what, mib):
        client = subprocess.Popen(
            ["python3", "-c", IDLE, host, str(port), "10000", how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert client.stdout.readline() == b"open\n"
            for _ in range(20):
                with httpx.Client() as fresh:  # a new connection each
                    assert fresh.get(front.replica.url + "/readyz").status_code == 200
            held = len(list(Path(f"/proc/{front.pid}/fd").iterdir()))
            print(f"{what}: {held} open files")
            assert held < 2 * 2048
        finally:
            client.communicate()


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(10_000, id="ten thousand"),
        pytest.param(1_000_000, id="a million", marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_names_and_version_numbers_of_requests_leave_no_trace(front, count):
    """Half of them ask for a version, half for a model that isn't there."""
    ahead = 5
    ask = (
        b"GET /v1/models/m/versions/%d HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v2/models/name-%d HTTP/1.1\r\nhost: x\r\n\r\n",
    )

    def labels() -> set[str]:
        text = httpx.get(front.replica.metrics_url + "/metrics").text
        return {line.rpartition(" ")[0] for line in text.splitlines() if line.startswith("windlass_")}

    before = labels()
    with (
        front.bounded(f"{count:,} requests to as many versions and models", 20),
        socket.create_connection(front.address) as client,
    ):
        for start in range(10, count // 2 + 10, ahead):
            client.sendall(b"".join(line % number for number in range(start, start + ahead) for line in ask))
            answers = b""
            while answers.count(b"HTTP/1.1 404") < 2 * ahead or not answers.endswith(b"}"):
                piece = client.recv(MIB)
                assert piece, answers
                answers += piece
    assert {line for line in labels() - before if 'code="404"' not in line} == set()


# --- many large bodies at once ---


def test_many_large_bodies_at_once_share_one_bound(front):
    """640 MiB together, of which there is room for 256."""
    with front.bounded("40 bodies of 16 MiB at once that never end", 320):
        answers = upload(front, 40, 16 * MIB)
    assert set(answers) <= {None, 429, 0}, answers
    assert 1 <= answers.count(None) <= 16


def test_answers_that_nobody_takes_share_the_same_bound(front):
    """40 requests of 16 MiB, whose answers are as large, and are left where they are."""
    size = 16 * MIB
    head = json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [size // 4, 1], "parameters": {"binary_data_size": size}}
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    with front.bounded("40 answers of 16 MiB that nobody takes", 320):
        statuses = ask_and_not_take(front, 40, "/v2/models/busy/infer", head, bytes(size))
    assert set(statuses) <= {200, 429, 0}, statuses
    assert 1 <= statuses.count(200) <= 16


def test_small_bodies_are_bounded_by_the_number_of_connections(front):
    with front.bounded("2,000 bodies of 60 KiB at once that never end", 250):
        upload(front, 2000, 60 * 1024)


def test_many_large_documents_at_once_share_one_bound(front):
    """JSON of a million numbers, which takes ten times its size when it is read."""
    body = b'{"instances":[' + b"[1.5]," * 10**6 + b"[1.5]]}"

    with front.bounded("40 documents of a million numbers at once", 400):
        statuses = Counter(each.status_code for each in front.posts(40, PREDICT, body))
    assert set(statuses) <= {200, 429, 0}, statuses  # 0: cut off while it sent, before it read the answer
    assert statuses[200] > 0
