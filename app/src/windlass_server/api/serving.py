"""What the protocols share: choosing a version, running it, headers of the answer, and what the log is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar
from uuid import uuid4

from windlass_contract.manifest import Signature, TensorSpec
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.hosting import Admission, Hosting
from windlass_server.predictions.prediction import Prediction, PredictionSink
from windlass_server.tensors import Tensor

from .class_scores import find_scores, top_classes
from .exchange import ModelError, Request
from .limits import Limits

DEFAULT_SIGNATURE = "serving_default"
LARGE = 256 * 1024
"""Bytes from which on converting a request or an answer is left to a thread, so that the event loop turns."""

P = ParamSpec("P")
R = TypeVar("R")


async def convert(size: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Runs a conversion of about `size` bytes: here if it is short, else in a thread."""
    if size < LARGE:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """How much there is to convert."""
    return sum(tensor.nbytes for tensor in tensors.values())


@dataclass(frozen=True)
class Service:
    """What every protocol is given."""

    hosting: Hosting
    instance: str
    limits: Limits
    predictions: PredictionSink | None
    strict_tfs: bool = False


class Call:
    """One request to one version, from its admission to its answer. Use `call` to make one."""

    def __init__(self, service: Service, request: Request, protocol: str, admission: Admission) -> None:
        self.admission = admission
        self._service = service
        self._request = request
        self._protocol = protocol
        self._started = time.perf_counter()

    @property
    def headers(self) -> dict[str, str]:
        """On each answer of a model: who answered."""
        admission = self.admission
        return {
            "x-model-version": str(admission.version),
            "x-model-digest": admission.digest,
            "x-plan-epoch": str(admission.epoch),
            "x-instance": self._service.instance,
        }

    async def infer(
        self, signature: str, inputs: Mapping[str, Tensor], outputs: list[str] | None = None
    ) -> dict[str, Tensor]:
        """Runs the model and records the prediction, whether it succeeds or not. Raises `ServingError`."""
        try:
            answer = await self._service.hosting.infer(self.admission, signature, inputs, outputs)
        except ServingError as error:
            self._record(signature, error.http_status, None)
            raise
        self.admission = self._service.hosting.answered_by(self.admission)
        self._record(signature, 200, answer)
        return answer

    def _record(self, signature: str, status: int, answer: Mapping[str, Tensor] | None) -> None:
        sink = self._service.predictions
        if sink is None:
            return
        admission = self.admission
        top_class, top_score = None, None
        found = find_scores(admission.manifest, answer) if answer is not None else None
        if found is not None and len(found):
            best = top_classes(admission.manifest, found[0], 1)[0]
            top_class, top_score = best["class"], best["score"]
        sink.record(
            Prediction(
                id=uuid4().hex,
                model=admission.model,
                version=admission.version,
                digest=admission.digest,
                epoch=admission.epoch,
                protocol=self._protocol,
                signature=signature,
                latency_seconds=time.perf_counter() - self._started,
                status=status,
                top_class=top_class,
                top_score=top_score,
                request_id=self._request.request_id,
                at=time.time(),
            )
        )


@contextmanager
def call(
    service: Service,
    request: Request,
    protocol: str,
    model: str,
    *,
    version: int | None = None,
    label: str | None = None,
) -> Iterator[Call]:
    """Admits a request and gives the admission back whatever happens.

    A `ServingError` before the admission passes as it is; one after it becomes a `ModelError` with the headers.
    """
    admission = service.hosting.admit(model, version=version, label=label)
    current = Call(service, request, protocol, admission)
    try:
        yield current
    except ServingError as error:
        raise ModelError(error, current.headers) from error
    finally:
        service.hosting.release(admission)


def fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Whether a tensor's rank and dimensions are the signature's, where it fixes them.

    TensorFlow itself would take any rank and may abort the whole process over a wrong one, so nothing else passes.
    """
    return spec.shape is None or (
        len(shape) == len(spec.shape)
        and all(wanted in {-1, given} for given, wanted in zip(shape, spec.shape, strict=True))
    )


def shape_text(shape: list[int] | tuple[int, ...] | None) -> str:
    """`[-1,4]`; `[?]` for any rank."""
    return "[?]" if shape is None else "[" + ",".join(map(str, shape)) + "]"


def default_signature(admission: Admission, remedy: str) -> tuple[str, Signature]:
    """`serving_default`, else the only one. Raises `ServingError` naming them when there are several."""
    signatures = admission.signatures
    name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures), "")
    if name != DEFAULT_SIGNATURE and len(signatures) != 1:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"model '{admission.model}' has no signature '{DEFAULT_SIGNATURE}' but "
            f"{', '.join(sorted(signatures)) or 'none'}: {remedy}",
        )
    return name, signatures[name]
