"""A LitServe server with two models, as its README has one.

`BENCH_TUNED=1` has batches and a worker per core.
"""

from __future__ import annotations

import os
from typing import Any

import litserve as ls
import numpy as np
from bench_model import BenchModel, best, image_tensor

TUNED = os.environ.get("BENCH_TUNED") == "1"


class Tiny(ls.LitAPI):
    """Rows of numbers."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """In each worker."""
        self.model = BenchModel("tiny")

    def decode_request(self, request: dict[str, Any]) -> Any:
        """JSON; a request is one row."""
        return np.array(request["instances"][0], dtype=np.float32)

    def predict(self, x: Any) -> Any:
        """A row, or a batch of them."""
        return self.model(x) if x.ndim > 1 else self.model(x[None])[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """JSON."""
        return {"predictions": [output.tolist()]}


class Cnn(Tiny):
    """A picture from a form."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """In each worker."""
        self.model = BenchModel("cnn")

    def decode_request(self, request: Any) -> Any:
        """The form's file."""
        return image_tensor(request["image"].file.read())[0]

    def predict(self, x: Any) -> Any:
        """An image, or a batch of them."""
        return self.model(x) if x.ndim > 3 else self.model(x[None])[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """JSON."""
        return {"predictions": best(output)}


if __name__ == "__main__":
    batches = [{"max_batch_size": size, "batch_timeout": 0.0} if TUNED else {} for size in (32, 8)]
    apis = [Tiny(api_path="/tiny", **batches[0]), Cnn(api_path="/cnn", **batches[1])]
    server = ls.LitServer(apis, accelerator="cpu", workers_per_device=2 if TUNED else 1, fast_queue=TUNED)
    server.run(port=int(os.environ["BENCH_PORT"]), host="127.0.0.1", generate_client_file=False, log_level="warning")
