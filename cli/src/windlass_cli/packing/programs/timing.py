"""Runs a version as a replica's worker does, with so many threads, and times it by batch size."""

from __future__ import annotations

import importlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from windlass_cli.errors import UserError
from windlass_cli.packing.image import image_input
from windlass_cli.packing.sample_inputs import Arrays, attempts, given
from windlass_contract.manifest import ModelFormat, Signature

from .probe import (
    TFLITE_FILE,
    Loaded,
    go_on_in_child,
    load_saved_model,
    load_tflite,
    main_signature,
    private_memory,
    read_arrays,
)
from .program import Teller, run

_WARM_UPS = 2


def work(request: dict[str, Any], teller: Teller) -> dict[str, Any]:
    """Request: `folder`, `format`, `signature` (empty: the main one), `image`, `inputs` (a file, or empty), `threads`,
    `batchSizes`, `seconds` for each of them."""
    tflite, threads = request["format"] == ModelFormat.TFLITE.value, request["threads"]
    teller.step("importing " + ("LiteRT" if tflite else "TensorFlow"))
    importlib.import_module("ai_edge_litert.interpreter" if tflite else "tensorflow")
    go_on_in_child()
    teller.step("loading the model as a replica will")
    begun = time.perf_counter()
    folder = Path(request["folder"])
    # An interpreter runs one request at a time; a SavedModel's functions as many as there are threads.
    models = [load_tflite(folder / TFLITE_FILE) for _ in range(threads)] if tflite else []
    models = models or [load_saved_model(folder, callers=threads)] * threads
    load_seconds = time.perf_counter() - begun
    name = request["signature"] or main_signature(models[0].signatures)
    if name not in models[0].signatures:
        raise UserError(f"there is no signature {name!r}, but {', '.join(sorted(models[0].signatures))}")
    signature = models[0].signatures[name]
    inputs = _inputs(models[0], name, signature, request)
    cells = []
    for size in request["batchSizes"] if _takes_batches(signature) else [_rows(inputs)]:
        teller.step(f"{threads} at a time, {size} rows each")
        batch = _of_size(inputs, size) if _takes_batches(signature) else inputs
        try:
            cells.append({"threads": threads, "batch": size, **_timed(models, name, batch, size, request["seconds"])})
        except models[0].refusals as error:
            teller.note(f"{size} rows are refused: {' '.join(str(error).split())[:300]}")
    return {"cells": cells, "loadSeconds": load_seconds, "memoryBytes": private_memory()}


def _inputs(loaded: Loaded, name: str, signature: Signature, request: dict[str, Any]) -> Arrays:
    """Some rows that the model answers."""
    source = request["inputs"]
    if source:
        try:
            return given(read_arrays(Path(source), signature), name, signature, source)
        except ValueError as error:
            raise UserError(f"--inputs: {error}") from error
    image = image_input(request["image"], loaded.signatures)
    refusal = ""
    for _what, inputs in attempts(name, signature, image, loaded.picture):
        try:
            loaded.call(name, inputs)
        except loaded.refusals as error:
            refusal = refusal or " ".join(str(error).split())[:300]
        else:
            return inputs
    raise UserError(f"signature {name} refuses made-up inputs ({refusal}); give real ones with --inputs")


def _takes_batches(signature: Signature) -> bool:
    return all(spec.shape is None or spec.shape[:1] == [-1] for spec in signature.inputs.values())


def _rows(inputs: Arrays) -> int:
    return max((len(array) for array in inputs.values() if array.ndim), default=1)


def _of_size(inputs: Arrays, size: int) -> Arrays:
    return {name: np.ascontiguousarray(array[np.arange(size) % len(array)]) for name, array in inputs.items()}


def _timed(models: list[Loaded], name: str, inputs: Arrays, rows: int, seconds: float) -> dict[str, float]:
    """All threads call for so many seconds, each with a model of its own in `models`. Raises what the model raises."""
    ready = threading.Barrier(len(models))
    taken: list[list[float]] = [[] for _ in models]
    failures: list[BaseException] = []

    def caller(call: Callable[[str, Arrays], Arrays], times: list[float]) -> None:
        try:
            for _ in range(_WARM_UPS):
                call(name, inputs)
            ready.wait()
            end = time.perf_counter() + seconds
            now = time.perf_counter()
            while now < end or not times:
                call(name, inputs)
                before, now = now, time.perf_counter()
                times.append(now - before)
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            failures.append(error)
            ready.abort()

    threads = [
        threading.Thread(target=caller, args=(model.call, times)) for model, times in zip(models, taken, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        if not isinstance(failure, threading.BrokenBarrierError):
            raise failure
    every = sorted(itertools.chain(*taken))
    rate = sum(len(times) / sum(times) for times in taken)
    return {
        "rowsPerSecond": rate * rows,
        "p50": every[len(every) // 2] * 1e3,
        "p99": every[int(len(every) * 0.99)] * 1e3,
    }


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run(work)
