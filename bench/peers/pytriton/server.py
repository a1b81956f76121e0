"""Triton with two models by way of pytriton, as "Quick start" of its documentation has it.

`BENCH_INSTANCES=2` has a process per core, and no wait for a batch to fill.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from bench_model import BenchModel, best, image_tensor
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

INSTANCES = int(os.environ.get("BENCH_INSTANCES", "1"))


def tiny() -> Callable[..., Any]:
    """Opened where it runs, at its first request."""
    models: list[BenchModel] = []

    @batch
    def infer(x: Any) -> dict[str, Any]:
        models or models.append(BenchModel("tiny"))
        return {"y": models[0](x)}

    return infer


def cnn(*, pictures: bool) -> Callable[..., Any]:
    """On JPEGs, or on tensors."""
    models: list[BenchModel] = []

    @batch
    def infer(**inputs: Any) -> dict[str, Any]:
        models or models.append(BenchModel("cnn"))
        if not pictures:
            return {"scores": models[0](inputs["x"])}
        images = [image_tensor(each[0]) for each in inputs["image"]]
        found = [best(row) for row in models[0](np.concatenate(images))]
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

        def bind(name: str, infer: Callable[..., Any], given: Tensor, answers: list[Tensor], size: int) -> None:
            settings = ModelConfig(max_batch_size=size, batcher=DynamicBatcher(max_queue_delay_microseconds=0))
            functions = [infer] * INSTANCES if INSTANCES > 1 else infer
            triton.bind(name, infer_func=functions, inputs=[given], outputs=answers, config=settings)

        bind(
            "tiny",
            tiny(),
            Tensor(name="x", dtype=np.float32, shape=(32,)),
            [Tensor(name="y", dtype=np.float32, shape=(8,))],
            32,
        )
        image = Tensor(name="image", dtype=bytes, shape=(1,))
        classes = [Tensor(name="index", dtype=np.int32, shape=(5,)), Tensor(name="score", dtype=np.float32, shape=(5,))]
        bind("pictures", cnn(pictures=True), image, classes, 8)
        tensors = Tensor(name="x", dtype=np.float32, shape=(160, 160, 3))
        bind("cnn", cnn(pictures=False), tensors, [Tensor(name="scores", dtype=np.float32, shape=(1000,))], 32)
        triton.serve()


if __name__ == "__main__":
    main()
