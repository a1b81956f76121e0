"""A LitServe server with two models, as its README has one.

`BENCH_WORKERS` says how many workers each model has, and turns batches and the fast queue on. What `decode_request` and
`encode_response` are annotated with becomes the endpoint's own types, so a request that is to come as it is has none.
"""

import os
from typing import Any

import litserve as ls
import numpy as np
from bench_model import BenchModel, best, image_tensor

WORKERS = int(os.environ.get("BENCH_WORKERS", "0"))


class Tiny(ls.LitAPI):
    """Rows of numbers."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """In each worker."""
        self.model = BenchModel("tiny")

    def decode_request(self, request) -> Any:  # noqa: ANN001 - see above
        """JSON; a request is one row."""
        return np.array(request["instances"][0], dtype=np.float32)

    def predict(self, x: Any) -> Any:
        """A row, or a batch of them."""
        return self.model(x) if x.ndim > 1 else self.model(x[None])[0]

    def encode_response(self, output: Any):  # noqa: ANN201 - see above
        """JSON."""
        return {"predictions": [output.tolist()]}


class Cnn(Tiny):
    """A picture from a form."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """In each worker."""
        self.model = BenchModel("cnn")

    def decode_request(self, request) -> Any:  # noqa: ANN001 - see above
        """The form's file."""
        return image_tensor(request["image"].file.read())[0]

    def predict(self, x: Any) -> Any:
        """An image, or a batch of them."""
        return self.model(x) if x.ndim > 3 else self.model(x[None])[0]

    def encode_response(self, output: Any):  # noqa: ANN201 - see above
        """JSON."""
        return {"predictions": best(output)}


if __name__ == "__main__":
    batches = [{"max_batch_size": size, "batch_timeout": 0.0} if WORKERS else {} for size in (32, 8)]
    apis = [Tiny(api_path="/tiny", **batches[0]), Cnn(api_path="/cnn", **batches[1])]
    tuned = {"workers_per_device": WORKERS, "fast_queue": True} if WORKERS else {}
    server = ls.LitServer(apis, accelerator="cpu", **tuned)
    server.run(
        port=int(os.environ["BENCH_PORT"]), host="127.0.0.1", generate_client_file=False, log_level="warning",
        num_api_servers=2 if WORKERS else None,
    )  # fmt: skip
