"""What the protocols share: choosing a version, running it, headers of the answer, and what the log is told."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType, TracebackType
from typing import Self

from windlass_server.errors import ServingError
from windlass_server.hosting.hosting import Admission, Hosting
from windlass_server.predictions.prediction import Prediction, PredictionSink, new_id
from windlass_server.tensors import Tensor

from .class_scores import find_scores, first_row, top_classes
from .exchange import ModelError, Request
from .json_work import JsonWork, size_of
from .limits import Limits


@dataclass(frozen=True)
class Service:
    """What every protocol is given."""

    hosting: Hosting
    instance: str
    limits: Limits
    json: JsonWork
    predictions: PredictionSink | None
    strict_tfs: bool = False


class Call:
    """One request to one version, from its admission to its answer. Use `call` to make one."""

    def __init__(self, service: Service, request: Request, protocol: str, admission: Admission) -> None:
        self.admission = self.admitted = admission
        """Who answers: at last, and as it was admitted."""
        self._service = service
        self._request = request
        self._protocol = protocol
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._service.hosting.release(self.admitted)
        if isinstance(error, ServingError):
            raise ModelError(error, self.headers) from error

    @property
    def headers(self) -> Mapping[str, str]:
        """On each answer of a model: who answered."""
        admission = self.admission
        return _headers(admission.version, admission.digest, admission.epoch, self._service.instance)

    async def infer(
        self, signature: str, inputs: Mapping[str, Tensor], outputs: list[str] | None = None
    ) -> dict[str, Tensor]:
        """Runs the model and records the prediction, whether it succeeds or not. Raises `ServingError`."""
        self._request.arriving.became(size_of(inputs))
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
        classes = admission.manifest.classes
        found = find_scores(classes, first_row(answer)) if answer is not None else None
        if found is not None and len(found):
            best = top_classes(classes, found[0], 1)[0]
            top_class, top_score = best["class"], best["score"]
        at = time.time()
        sink.record(
            Prediction(
                id=new_id(at),
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
                at=at,
            )
        )


def call(
    service: Service,
    request: Request,
    protocol: str,
    model: str,
    *,
    version: int | None = None,
    label: str | None = None,
) -> Call:
    """Admits a request; to be used by `with`, which gives the admission back whatever happens.

    A `ServingError` before the admission passes as it is; one after it becomes a `ModelError` with the headers.
    """
    return Call(service, request, protocol, service.hosting.admit(model, version=version, label=label))


@lru_cache(maxsize=64)
def _headers(version: int, digest: str, epoch: int, instance: str) -> Mapping[str, str]:
    return MappingProxyType(
        {"x-model-version": str(version), "x-model-digest": digest, "x-plan-epoch": str(epoch), "x-instance": instance}
    )
