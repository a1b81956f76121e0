"""Triton with two models by way of pytriton, as "Quick start" of its documentation has it.

`BENCH_CALLERS=2` has two instances of each model. What runs them are threads of this process, whatever their number, so
each instance opens the model for itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from bench_model import CALLERS, BenchModel, best, image_tensor
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def tiny() -> Callable[..., Any]:
    """On rows of numbers."""
    model = BenchModel("tiny")

    @batch
    def infer(x: Any) -> dict[str, Any]:
        return {"y": model(x)}

    return infer


def cnn(*, pictures: bool) -> Callable[..., Any]:
    """On JPEGs, or on tensors."""
    model = BenchModel("cnn")

    @batch
    def infer(**inputs: Any) -> dict[str, Any]:
        if not pictures:
            return {"scores": model(inputs["x"])}
        images = [image_tensor(each[0]) for each in inputs["image"]]
        found = [best(row) for row in model(np.concatenate(images))]
        return {
            "index": np.array([[each["index"] for each in row] for row in found], dtype=np.int32),
            "score": np.array([[each["score"] for each in row] for row in found], dtype=np.float32),
        }

    return infer


def main() -> None:
    """Until it is ended."""
    config = TritonConfig(
        http_port=int(os.environ["BENCH_PORT"]),
        grpc_port=int(sys.argv[1]),
        metrics_port=int(sys.argv[2]),
        log_verbose=0,
    )
    with Triton(config=config) as triton:

        def bind(name: str, make: Callable[[], Any], given: Tensor, answers: list[Tensor], size: int) -> None:
            settings = ModelConfig(max_batch_size=size, batcher=DynamicBatcher(max_queue_delay_microseconds=0))
            functions = [make() for _ in range(CALLERS)]
            triton.bind(name, infer_func=functions, inputs=[given], outputs=answers, config=settings)

        bind(
            "tiny",
            tiny,
            Tensor(name="x", dtype=np.float32, shape=(32,)),
            [Tensor(name="y", dtype=np.float32, shape=(8,))],
            32,
        )
        image = Tensor(name="image", dtype=bytes, shape=(1,))
        classes = [Tensor(name="index", dtype=np.int32, shape=(5,)), Tensor(name="score", dtype=np.float32, shape=(5,))]
        bind("pictures", partial(cnn, pictures=True), image, classes, 8)
        tensors = Tensor(name="x", dtype=np.float32, shape=(160, 160, 3))
        bind("cnn", partial(cnn, pictures=False), tensors, [Tensor(name="scores", dtype=np.float32, shape=(1000,))], 32)
        triton.serve()


if __name__ == "__main__":
    main()
