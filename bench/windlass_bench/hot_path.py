"""Where each microsecond of a request goes: `make bench-hot-path` writes the tables of docs/performance.md.

Three kinds of figures, all processor time and so the same however busy the machine is, but for cold caches. *By the
kernel*: what threads and processes used under load, per request; of several runs in turn the least. *By layer*: what
each takes of the event loop's thread, see `layers`. *Alone*: one step of a request, called in a loop; of many chunks
the least, so with everything in the caches.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import orjson

from windlass_contract.manifest import FileEntry, Manifest, ModelFormat, Signature
from windlass_server.api.class_scores import find_scores
from windlass_server.api.document import Document
from windlass_server.api.json_text import parse
from windlass_server.api.limits import Limits
from windlass_server.api.oip_answer import answer_inference
from windlass_server.api.oip_infer import read_inference
from windlass_server.api.tfs_json import format_rows, parse_predict
from windlass_server.hosting.frames import PREFIX, decode, encode
from windlass_server.hosting.hosting import Admission
from windlass_server.predictions import encoding
from windlass_server.predictions.prediction import Prediction

from . import servers
from .load import closed_loop
from .models import SIGNATURES
from .places import MODELS, ROOT, WORK
from .processes import tree
from .running import Contents, machine, make_models
from .servers import Variant

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- written by make bench-hot-path -->", "<!-- until here -->"
_CHUNKS, _CALLS = 60, 50
_ROWS = [(workload, backend) for workload in ("W1", "W1b", "W2") for backend in ("litert", "tensorflow")]


@dataclass(frozen=True)
class Used:
    """Microseconds of a processor per request."""

    serving: float
    """The thread that answers: the event loop's."""
    beside: float
    """Other threads of its process: the prediction log's."""
    children: float
    """Other processes: the version's worker, and who decodes images."""

    @property
    def total(self) -> float:
        """Of all."""
        return self.serving + self.beside + self.children


def thread_seconds(root: int) -> tuple[float, float, float]:
    """What a process' main thread, its other threads, and its descendants have used."""
    own = {int(task.name): _on_cpu(task) for task in Path(f"/proc/{root}/task").iterdir()}
    main = own.pop(root)
    children = sum(
        _on_cpu(task) for pid in tree(root)[1:] for task in Path(f"/proc/{pid}/task").glob("*") if task.exists()
    )
    return main, sum(own.values()), children


def _on_cpu(task: Path) -> float:
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return 0.0  # it has just ended


def under_load(variant: Variant, backend: str, workload: str, contents: Contents, seconds: float) -> Used:
    """By the kernel, with 64 connections (W2: 8)."""
    log = WORK / "logs" / f"hot-{variant.server}-{backend}.log"
    sent = contents.message(variant, workload)
    with servers.started(variant, backend, log, [sent]) as running:
        contents.check(running, variant, workload)
        connections = 8 if workload == "W2" else 64
        closed_loop(running.url, sent, connections=connections, seconds=seconds / 2)
        before = thread_seconds(running.pid)
        loaded = closed_loop(running.url, sent, connections=connections, seconds=seconds)
        used = [after - earlier for after, earlier in zip(thread_seconds(running.pid), before, strict=True)]
    return Used(*(1e6 * each / max(loaded.requests, 1) for each in used))


def alone(step: Callable[[], object]) -> float:
    """Microseconds of one call."""
    best = float("inf")
    for _ in range(_CHUNKS):
        begun = time.thread_time()
        for _ in range(_CALLS):
            step()
        best = min(best, time.thread_time() - begun)
    return 1e6 * best / _CALLS


def read_at_once(body: bytes, signature: Signature, limits: Limits) -> None:
    """As a replica reads the body of W1."""
    document = Document(body, limits)
    document.inputs(document.tfs_signature(), signature)


def steps(contents: Contents, windlass: Variant) -> list[tuple[str, float]]:
    """Those of a W1 request and its binary form, in order."""
    limits, signature = Limits(), SIGNATURES["tiny"]
    manifest = Manifest(
        model="tiny", version=1, format=ModelFormat.TFLITE, signatures={"serving_default": signature},
        files=[FileEntry(path="model.tflite", size=1, sha256="0" * 64)],
    )  # fmt: skip
    admission = Admission("tiny", 1, "sha256:" + "0" * 64, 1, False, manifest, MappingProxyType(manifest.signatures))
    rows, binary = contents.message(windlass, "W1"), contents.message(windlass, "W1b")
    headers = {name.lower().encode(): value.encode() for name, value in binary.headers.items()}
    document = orjson.loads(rows.body)
    inputs, _ = parse_predict(document, signature)
    outputs = {"y": np.linspace(0, 1, 8, dtype=np.float32)[None]}
    inference = read_inference(binary.body, headers, admission, limits)
    head = {"op": "run", "signature": "serving_default", "outputs": ["y"], "deadline": 1.0, "trial": False, "id": 1}
    frame = memoryview(b"".join(encode({"id": 1}, outputs)))
    head_bytes = PREFIX.unpack_from(frame)[0]
    prediction = Prediction(
        id="0" * 32, model="tiny", version=1, digest="sha256:" + "0" * 64, epoch=1, protocol="v1",
        signature="serving_default", latency_seconds=0.001, status=200, top_class=None, top_score=None,
        request_id="0" * 32, at=1.0,
    )  # fmt: skip
    return [
        ("JSON: bounds and parsing", alone(lambda: parse(rows.body, limits))),
        ("JSON: types, shape, to a tensor", alone(lambda: parse_predict(document, signature))),
        ("JSON: all of that at once, for rows of numbers", alone(lambda: read_at_once(rows.body, signature, limits))),
        ("JSON: the answer's numbers", alone(lambda: format_rows(outputs))),
        ("binary: head, checks, to a tensor", alone(lambda: read_inference(binary.body, headers, admission, limits))),
        ("binary: the answer", alone(lambda: answer_inference(inference, outputs, {}, admission, {}))),
        ("channel: a request's frame", alone(lambda: encode(head, inputs))),
        ("channel: an answer's frame", alone(lambda: decode(frame[PREFIX.size :], head_bytes))),
        ("prediction log: which class scored highest", alone(lambda: find_scores(manifest.classes, outputs))),
        (
            "prediction log: to disk and back, in its threads",
            alone(lambda: encoding.decode(encoding.encode(prediction))),
        ),
    ]


def main() -> None:
    """Measures and writes the tables."""
    parser = argparse.ArgumentParser(prog="make bench-hot-path")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    arguments = parser.parse_args()
    make_models(MODELS)
    contents = Contents()
    everyone = {each.key: each for each in servers.variants()}
    windlass = everyone["windlass/shipped"]
    floor, path = everyone["http-floor/one-process"], everyone["worker-path/one-worker"]
    jobs = [(floor, "none", "W1"), (path, "litert", "W1"), (path, "tensorflow", "W1")]
    jobs += [(windlass, backend, workload) for workload, backend in _ROWS]
    found: dict[tuple[str, str, str], Used] = {}
    for number in range(arguments.rounds):
        for variant, backend, workload in jobs:
            used = under_load(variant, backend, workload, contents, arguments.seconds)
            print(f"round {number + 1}: {variant.key}, {backend}, {workload}: {used}", flush=True)
            key = (variant.title, backend, workload)
            found[key] = min(found.get(key, used), used, key=lambda each: each.total)
    lines = tables(found, by_layer(), steps(contents, windlass))
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + "\n".join(["", *lines, ""]) + text[text.index(END) :])


def by_layer() -> dict[str, float]:
    """In a process of its own: it becomes a replica."""
    command = [sys.executable, "-m", "windlass_bench.layers", str(MODELS)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT / "bench")}
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def tables(
    found: dict[tuple[str, str, str], Used], layers: dict[str, float], alone_: list[tuple[str, float]]
) -> list[str]:
    """As Markdown."""
    lines = [
        "", f"{machine()}. Microseconds of a processor per request, by the kernel:", "",
        "| server | workload | the event loop's thread | its other threads | worker, image decoder | in all |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    names = {"none": "", "litert": ", LiteRT", "tensorflow": ", TensorFlow"}
    lines += [
        f"| {title} | {workload}{names[backend]} | {used.serving:.0f} | {used.beside:.0f} | {used.children:.0f} | "
        f"{used.total:.0f} |"
        for (title, backend, workload), used in found.items()
    ]
    lines += [
        "", "W1 with LiteRT by layer, of the event loop's thread, 64 connections, without the network:", "",
        "| layer | microseconds |", "|---|---|",
        *(f"| {layer} | {microseconds:.0f} |" for layer, microseconds in layers.items()),
        f"| in all | {sum(layers.values()):.0f} |",
    ]  # fmt: skip
    lines += ["", "Steps of W1 and W1b alone:", "", "| step | microseconds |", "|---|---|"]
    return [*lines, *(f"| {name} | {microseconds:.1f} |" for name, microseconds in alone_), ""]


if __name__ == "__main__":
    main()
