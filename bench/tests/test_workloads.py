"""Requests on each wire, and whether an answer is right."""

from __future__ import annotations

import base64
import json
import socketserver
import threading

import numpy as np
import pytest

from windlass_bench.load import summary
from windlass_bench.servers import variants
from windlass_bench.workloads import MODEL_OF, difference, message, read_answer
from windlass_testing.one_machine import wait_until
from windlass_testing.open_loop import OpenLoop, Shot

TENSOR = np.array([[1.5, 2.5]], dtype=np.float32)


def test_rows_are_tensorflow_servings_json():
    assert json.loads(message("rows", "/p", TENSOR, b"").body) == {"instances": [[1.5, 2.5]]}


def test_binary_tensors_follow_their_json():
    sent = message("oip-binary", "/p", TENSOR, b"")
    length = int(sent.headers["Inference-Header-Content-Length"])
    head = json.loads(sent.body[:length])
    assert head["inputs"][0]["parameters"]["binary_data_size"] == 8
    assert np.frombuffer(sent.body[length:], dtype="<f4").tolist() == [1.5, 2.5]


def test_an_image_travels_as_it_is_in_a_form_and_in_base64():
    assert message("jpeg", "/p", TENSOR, b"\xff\xd8").body == b"\xff\xd8"
    assert b"\r\n\r\n\xff\xd8\r\n--" in message("multipart", "/p", TENSOR, b"\xff\xd8").body
    entry = json.loads(message("oip-base64", "/p", TENSOR, b"\xff\xd8").body)["inputs"][0]
    assert base64.b64decode(entry["data"][0]) == b"\xff\xd8"


@pytest.mark.parametrize(
    ("content", "headers", "found"),
    [
        (b'{"predictions": [[1.5, 2.5]]}', {}, {"values": [[1.5, 2.5]]}),
        (b'{"outputs": [{"name": "y", "shape": [1, 2], "data": [1.5, 2.5]}]}', {}, {"values": [[1.5, 2.5]]}),
        (b'{"predictions": [{"index": 3, "score": 0.5, "class": "3"}]}', {}, {"index": [3], "score": [0.5]}),
    ],
)
def test_answers_are_read_in_every_form(content: bytes, headers: dict[str, str], found: dict[str, list[float]]):
    assert {name: array.tolist() for name, array in read_answer(content, headers).items()} == found


def test_binary_answers_are_read():
    head = json.dumps(
        {"outputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]}
    ).encode()
    answer = read_answer(head + TENSOR.tobytes(), {"inference-header-content-length": str(len(head))})
    assert answer["values"].tolist() == [[1.5, 2.5]]


@pytest.mark.parametrize("content", [b"{}", b'{"predictions": []}', b"[]", b'{"outputs": [{"name": "y"}]}', b"no"])
def test_what_is_no_answer_is_said_to_be_none(content: bytes):
    with pytest.raises(ValueError, match=r"isn't understood|Expecting|line 1"):
        read_answer(content, {})


def test_a_difference_is_the_largest_of_all_numbers():
    assert difference("W1", {"values": np.array([[1.0, 2.5]])}, np.array([[1.0, 2.0]])) == 0.5
    assert np.isnan(difference("W1", {"values": np.array([[np.nan, 2.0]])}, np.array([[1.0, 2.0]])))
    with pytest.raises(ValueError, match="shape"):
        difference("W1", {"values": np.array([[1.0]])}, np.array([[1.0, 2.0]]))


def test_another_best_class_is_wrong_however_near_its_score():
    right = np.array([[0.1, 0.5, 0.49, 0.2, 0.05, 0.3]])
    order = [1, 2, 5, 3, 0]
    answer = {"index": np.array(order), "score": right[0][order]}
    assert difference("W2", answer, right) == 0.0
    with pytest.raises(ValueError, match="best classes"):
        difference("W2", {"index": np.array([2, 1, 5, 3, 0]), "score": right[0][order]}, right)


def test_what_was_due_and_never_sent_is_an_error_that_took_until_the_end():
    shots = [Shot(due=0.0, sent=0.0, done=0.01, status=200, version=1, epoch=1)] * 5
    found = summary(shots, 0.0, 1.0, rate=10, generator_cpu_seconds=0.0)
    assert (found.requests, found.errors, found.p50, found.p99) == (5, 5, 1000.0, 1000.0)


def test_every_server_is_described_completely():
    found = variants()
    assert found[0].kind == "windlass"
    assert {each.kind for each in found} == {"windlass", "limit", "peer"}
    for each in found:
        assert set(each.routes) <= set(MODEL_OF), each.key
        assert each.table in {"same", "documented", "limit"}, each.key
        if each.kind == "peer":
            assert (each.folder / "requirements.lock").exists(), each.key


class AnswersInChunks(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            if line == b"\r\n":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                self.wfile.write(b"2\r\n{}\r\n0\r\n\r\n")


def test_an_answer_in_chunks_is_taken_for_an_answer(tmp_path):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), AnswersInChunks) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with OpenLoop(tmp_path, url, "/", b"", {}, rate=100, connections=2, spread=True) as load:
            wait_until("five answers are there", lambda: len(load.shots()) >= 5)
        server.shutdown()
    assert {shot.status for shot in load.shots()} == {200}
