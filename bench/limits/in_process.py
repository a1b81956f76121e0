"""What the machine can do with a model and nothing around it.

`in_process.py MODELS PHOTO BACKEND WORKLOAD SECONDS WAYS` prints one line of JSON for each of the first so many ways of
using the processors: so many processes with so many threads, batches of so many images. W2 decodes, resizes and scales
each image with Pillow and runs the network on batches of them; W3 runs it on the 32 images that are there. `requests`:
what W2 or W3 would count, per second; the best of the ways is the limit.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from windlass_bench.models import tensor_of

Run = Callable[[Any], Any]
WAYS = {
    # With LiteRT batches don't pay, and threads do as well as processes; TensorFlow is the other way round.
    ("litert", "W2"): [(2, 1, 1), (1, 2, 1), (2, 1, 8)],
    ("tensorflow", "W2"): [(2, 1, 8), (2, 1, 4), (2, 1, 1)],
    ("litert", "W3"): [(2, 1, 8), (1, 2, 1), (1, 2, 32)],
    ("tensorflow", "W3"): [(2, 1, 8), (2, 1, 32), (2, 1, 4)],
}
"""Processes, threads of each, images that the network is given at a time; the most promising first."""
_IMAGES = 32


def load(backend: str, models: Path) -> Run:
    """The network, on one thread."""
    folder = models / backend / "cnn" / "1"
    if backend == "litert":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(folder / "model.tflite"), num_threads=1)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner("serving_default")
        return lambda batch: runner(x=batch)["scores"]
    import tensorflow as tf

    if not tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    model = tf.saved_model.load(str(folder))
    function = model.signatures["serving_default"]

    def run(batch: Any, _keep: Any = model) -> Any:
        return function(x=tf.constant(batch))["scores"].numpy()

    return run


def work(backend: str, workload: str, models: Path, photo: bytes, batch: int, until: Any, count: Any) -> None:
    """One thread's share: counts requests until the time that `until` gives after everyone is warm."""
    run = load(backend, models)
    images = np.load(models / "W3.npy")
    if workload == "W2":

        def step() -> float:
            run(np.concatenate([tensor_of(photo) for _ in range(batch)]))
            return batch
    else:

        def step() -> float:
            for start in range(0, _IMAGES, batch):
                run(images[start : start + batch])
            return 1

    step()
    end = until()
    done = 0.0
    while time.monotonic() < end:
        done += step()
    count(done)


def process(backend: str, workload: str, models: Path, photo: bytes, way: tuple[int, int, int], shared: Any) -> None:
    """One process: its threads, and what they did, added to the total."""
    barrier, total, seconds = shared

    def until() -> float:
        barrier.wait()
        return time.monotonic() + float(seconds)

    def count(done: float) -> None:
        with total.get_lock():
            total.value += done

    arguments = (backend, workload, models, photo, way[2], until, count)
    threads = [threading.Thread(target=work, args=arguments) for _ in range(way[1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(
    backend: str, workload: str, models: Path, photo: bytes, way: tuple[int, int, int], seconds: float
) -> float:
    """Requests per second."""
    context = multiprocessing.get_context("spawn")
    shared = (context.Barrier(way[0] * way[1]), context.Value("d", 0.0), seconds)
    processes = [
        context.Process(target=process, args=(backend, workload, models, photo, way, shared)) for _ in range(way[0])
    ]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
        if each.exitcode:
            raise RuntimeError(f"a process of {backend} {workload} {way} ended with {each.exitcode}")
    return float(shared[1].value) / seconds


def main() -> None:
    """See above."""
    models, photo, backend, workload, seconds, ways = sys.argv[1:]
    jpeg = Path(photo).read_bytes()
    for way in WAYS[backend, workload][: int(ways)]:
        rate = measure(backend, workload, Path(models), jpeg, way, float(seconds))
        line = {"processes": way[0], "threads": way[1], "batch": way[2], "requests": rate}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
