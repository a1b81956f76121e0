"""What a model's signatures say of a request: which one is meant, and what fits it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from windlass_contract.manifest import Signature, TensorSpec
from windlass_server.errors import Code, ServingError
from windlass_server.tensors import shape_fits

DEFAULT_SIGNATURE = "serving_default"


class Interface(Protocol):
    """A model as requests are read for it."""

    @property
    def model(self) -> str: ...
    @property
    def signatures(self) -> Mapping[str, Signature]: ...


def fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Whether a tensor's rank and dimensions are the signature's, where it fixes them.

    TensorFlow itself would take any rank and may abort the whole process over a wrong one, so nothing else passes.
    """
    return shape_fits(shape, spec.shape)


def shape_text(shape: list[int] | tuple[int, ...] | None) -> str:
    """`[-1,4]`; `[?]` for any rank."""
    return "[?]" if shape is None else "[" + ",".join(map(str, shape)) + "]"


def default_signature(interface: Interface, remedy: str) -> tuple[str, Signature]:
    """`serving_default`, else the only one. Raises `ServingError` naming them when there are several."""
    signatures = interface.signatures
    name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures), "")
    if name != DEFAULT_SIGNATURE and len(signatures) != 1:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"model '{interface.model}' has no signature '{DEFAULT_SIGNATURE}' but "
            f"{', '.join(sorted(signatures)) or 'none'}: {remedy}",
        )
    return name, signatures[name]
