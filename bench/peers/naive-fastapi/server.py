"""The app of a tutorial, in one file: the model as Keras saved it, called in a plain function.

`BENCH_BACKEND=litert` has the interpreter in place of it, behind a lock, since plain functions run in threads.
"""

from __future__ import annotations

import os
import threading
from io import BytesIO
from typing import Any

import numpy as np
from bench_model import BenchModel, best
from fastapi import FastAPI, UploadFile
from PIL import Image

app = FastAPI()
lock = threading.Lock()
if os.environ["BENCH_BACKEND"] == "litert":
    models = {name: BenchModel(name) for name in ("tiny", "cnn")}
else:
    import tensorflow as tf

    folder = os.environ["BENCH_KERAS"]
    models = {name: tf.keras.models.load_model(f"{folder}/{name}.keras") for name in ("tiny", "cnn")}


def run(name: str, x: Any) -> Any:
    """One row of scores per row of `x`."""
    if os.environ["BENCH_BACKEND"] == "litert":
        with lock:
            return models[name](x)
    return models[name](x).numpy()


@app.post("/tiny")
def tiny(body: dict[str, list[list[float]]]) -> dict[str, list[list[float]]]:
    """Rows of numbers."""
    return {"predictions": run("tiny", np.array(body["instances"], dtype=np.float32)).tolist()}


@app.post("/cnn")
def cnn(image: UploadFile) -> dict[str, list[dict[str, Any]]]:
    """A picture from a form."""
    picture = Image.open(BytesIO(image.file.read())).convert("RGB").resize((160, 160), Image.Resampling.BILINEAR)
    x = np.asarray(picture, dtype=np.float32)[None] / 127.5 - 1
    return {"predictions": best(run("cnn", x)[0])}
