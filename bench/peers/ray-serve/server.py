"""Ray Serve, as "Serve a model" of its documentation has it: a deployment whose class opens the model once.

`BENCH_TUNED=1` adds `@serve.batch`, which its guide on performance recommends.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from bench_model import BenchModel, best, image_tensor
from ray import serve
from starlette.requests import Request

TUNED = os.environ.get("BENCH_TUNED") == "1"


@serve.deployment(num_replicas=2, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.5})
class Served:
    """Both models."""

    def __init__(self) -> None:
        self.tiny, self.cnn = BenchModel("tiny"), BenchModel("cnn")

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0)
    async def tiny_batch(self, rows: list[Any]) -> list[Any]:
        """One row each."""
        return list(self.tiny(np.concatenate(rows)))

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0)
    async def cnn_batch(self, images: list[Any]) -> list[Any]:
        """One image each."""
        return list(self.cnn(np.concatenate(images)))

    async def __call__(self, request: Request) -> dict[str, Any]:
        """By path."""
        if request.url.path.endswith("/tiny"):
            x = np.array((await request.json())["instances"], dtype=np.float32)
            return {"predictions": [(await self.tiny_batch(x)).tolist()] if TUNED else self.tiny(x).tolist()}
        x = image_tensor(await request.body())
        return {"predictions": best(await self.cnn_batch(x) if TUNED else self.cnn(x)[0])}


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])})
    serve.run(Served.bind(), blocking=True)
