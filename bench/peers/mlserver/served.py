"""MLServer's custom runtime with two models, as "Serving custom models" of its documentation has it."""

from __future__ import annotations

from typing import Any

import numpy as np
from bench_model import BenchModel, best, image_tensor
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Tiny(MLModel):
    """Rows of numbers."""

    async def load(self) -> bool:
        """In each worker."""
        self.model = BenchModel("tiny")
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One row, or a batch that MLServer made."""
        return _answer(self.name, y=self.model(NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)))


class Cnn(MLModel):
    """A picture in base64."""

    async def load(self) -> bool:
        """In each worker."""
        self.model = BenchModel("cnn")
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One picture, or a batch that MLServer made."""
        images = Base64Codec.decode_input(payload.inputs[0])
        found = [best(row) for row in self.model(np.concatenate([image_tensor(image) for image in images]))]
        index = np.array([[each["index"] for each in row] for row in found])
        return _answer(self.name, index=index, score=np.array([[each["score"] for each in row] for row in found]))


def _answer(model: str, **outputs: Any) -> InferenceResponse:
    encoded = [NumpyCodec.encode_output(name, array) for name, array in outputs.items()]
    return InferenceResponse(model_name=model, outputs=encoded)
