"""What the protocols see of the hosted models: admit a request, run it, ask what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from windlass_contract.manifest import Manifest, Signature
from windlass_contract.report import VersionState
from windlass_server.tensors import Tensor


@dataclass
class Admission:  # frozen, it would take ten times as long to make, and one is made for each request
    """A request's ticket: the version that was chosen for it and the epoch it was chosen under. It is answered by
    this version whatever changes meanwhile, and must be given back (`infer` does, or `release`)."""

    model: str
    version: int
    digest: str
    epoch: int
    explicit: bool
    """It named a version or label: it is no evidence, and there is no second answer for it."""
    manifest: Manifest
    signatures: Mapping[str, Signature]
    """As the loaded model has them."""


@dataclass(frozen=True)
class VersionStatus:
    """One version of a model, for status and metadata."""

    version: int
    state: VersionState
    message: str
    """Why it isn't available; empty when it is."""
    addressable: bool
    """Whether a request may name it."""


class Hosting(Protocol):
    """All methods belong to the event loop's thread and don't block it."""

    def models(self) -> list[str]:
        """Names of the models that the plan names, sorted."""
        ...

    def versions(self, model: str) -> list[VersionStatus]:
        """What the plan names of a model, highest version first. Raises `ServingError` NOT_FOUND
        `Could not find any versions of model X` for an unknown model."""
        ...

    def labels(self, model: str) -> Mapping[str, int]:
        """Label to version, as of the last commit."""
        ...

    def admit(self, model: str, *, version: int | None = None, label: str | None = None) -> Admission:
        """Chooses the version that answers. Raises `ServingError`: NOT_FOUND with TensorFlow Serving's words
        (`Servable not found for request: Latest(m)` or `Specific(m, 9)`) for what isn't there or may not be
        addressed, INVALID_ARGUMENT (`Unrecognized servable version label: x`), UNAVAILABLE when the plan has traffic
        for the model and no version of it lives, or while draining, RESOURCE_EXHAUSTED when the queue is full."""
        ...

    async def infer(
        self, admission: Admission, signature: str, inputs: Mapping[str, Tensor], outputs: list[str] | None = None
    ) -> dict[str, Tensor]:
        """Runs the model and gives the admission back; where the version fails by its own fault, another answers once
        more, if the request named none. `inputs` have the signature's names and element types and fit
        its ranks (the caller has checked). `outputs`: only these. Raises `ServingError`: DEADLINE_EXCEEDED, UNAVAILABLE
        (the worker died), INVALID_ARGUMENT (TensorFlow refused the shapes), INTERNAL."""
        ...

    def answered_by(self, admission: Admission) -> Admission:
        """Which version answered, after `infer` returned: another one than was admitted to, where that one failed."""
        ...

    def release(self, admission: Admission) -> None:
        """Gives an admission back that was never run (a bad request). Giving back twice is harmless."""
        ...
