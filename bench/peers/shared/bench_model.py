"""What every peer's program does alike: opens a model, decodes an image, picks the best classes.

`BENCH_BACKEND` (tensorflow, litert) and `BENCH_MODELS` say which model. In table *same* (`BENCH_TABLE`) an operation
has one thread: requests run beside each other in as many processes as each peer is given. In table *documented* the
framework's own defaults hold, as in everybody's example.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 160
TOP = 5
BACKEND = os.environ["BENCH_BACKEND"]
MODELS = Path(os.environ["BENCH_MODELS"])
CALLERS = int(os.environ.get("BENCH_CALLERS", "1"))
"""Threads of one process that run a model at a time: TensorFlow runs no more functions at once than it has threads
between operations."""
_OUTPUT = {"tiny": "y", "cnn": "scores"}


class BenchModel:
    """A model as a function of its input, FP32 with a batch dimension. Not for several threads at a time.

    Where it is handed to another process it is opened there.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        folder = MODELS / name / "1"
        self._run = _litert(folder, _OUTPUT[name]) if BACKEND == "litert" else _tensorflow(folder, _OUTPUT[name])

    def __call__(self, x: Any) -> Any:
        """The scores."""
        return self._run(x)

    def __reduce__(self) -> Any:
        return BenchModel, (self.name,)


def _litert(folder: Path, output: str) -> Callable[[Any], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(folder / "model.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("serving_default")
    return lambda x: runner(x=x)[output]


def _tensorflow(folder: Path, output: str) -> Callable[[Any], Any]:
    import tensorflow as tf

    if os.environ["BENCH_TABLE"] == "same" and not tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(CALLERS)
    model = tf.saved_model.load(str(folder))
    function = model.signatures["serving_default"]

    def run(x: Any, _keep: Any = model) -> Any:
        return function(x=tf.constant(x))[output].numpy()

    return run


def image_tensor(jpeg: bytes) -> Any:
    """Decoded in full, resized and scaled: a batch of one."""
    with Image.open(BytesIO(jpeg)) as image:
        resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return (np.asarray(resized, dtype=np.float32) * np.float32(1 / 127.5) - np.float32(1))[None]


def best(scores: Any) -> list[dict[str, Any]]:
    """The best classes of one row."""
    order = np.argsort(-scores, kind="stable")[:TOP]
    return [{"index": int(index), "score": float(scores[index])} for index in order]
