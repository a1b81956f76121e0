"""A BentoML service with two models, as "Hello world" of its documentation has it.

`BENCH_WORKERS=2` has a worker per core, and adaptive batches of rows.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import bentoml
import numpy as np
from bench_model import BenchModel, best
from bentoml.validators import DType
from PIL import Image

WORKERS = int(os.environ.get("BENCH_WORKERS", "1"))
Rows = Annotated[np.ndarray, DType("float32")]
batches = {"batchable": True, "max_batch_size": 64, "max_latency_ms": 1000} if WORKERS > 1 else {}


@bentoml.service(workers=WORKERS, traffic={"timeout": 60, "max_concurrency": 256})
class Served:
    """Both models, in each worker."""

    def __init__(self) -> None:
        self.tiny_model, self.cnn_model = BenchModel("tiny"), BenchModel("cnn")

    @bentoml.api(**batches)
    def tiny(self, instances: Rows) -> Rows:
        """Rows of numbers."""
        return self.tiny_model(instances)

    @bentoml.api
    def cnn(self, image: Image.Image) -> list[dict[str, Any]]:
        """A picture from a form."""
        picture = image.convert("RGB").resize((160, 160), Image.Resampling.BILINEAR)
        x = np.asarray(picture, dtype=np.float32)[None] * np.float32(1 / 127.5) - np.float32(1)
        return best(self.cnn_model(x)[0])
