"""KServe's Python server with two models, as "Deploy Custom Python Serving Runtime" of its documentation writes one."""

from __future__ import annotations

from typing import Any

import numpy as np
from bench_model import BenchModel, best, image_tensor
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid


class Served(Model):
    """Loaded in each worker process."""

    def __init__(self, name: str, output: str) -> None:
        super().__init__(name)
        self.output = output
        self.load()

    def load(self) -> bool:
        """Before the first request."""
        self.model = BenchModel(self.name)
        self.ready = True
        return self.ready

    def predict(self, payload: Any, headers: dict[str, str] | None = None, response_headers: Any = None) -> Any:  # noqa: ARG002 - KServe's signature
        """Version 1 with JSON or an image, version 2 with tensors."""
        if isinstance(payload, InferRequest):
            result = self.model(payload.inputs[0].as_numpy())
            output = InferOutput(name=self.output, shape=list(result.shape), datatype="FP32")
            output.set_data_from_numpy(result, binary_data=True)
            return InferResponse(response_id=generate_uuid(), model_name=self.name, infer_outputs=[output])
        if isinstance(payload, bytes):
            return {"predictions": best(self.model(image_tensor(payload))[0])}
        return {"predictions": self.model(np.array(payload["instances"], dtype=np.float32)).tolist()}


if __name__ == "__main__":
    ModelServer().start([Served("tiny", "y"), Served("cnn", "scores")])
