"""What a worker asks of a runtime, and the checks that come before any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from windlass_contract.manifest import Signature, TensorSpec
from windlass_server.errors import Code, ServingError
from windlass_server.tensors import Tensor, datatype_of, shape_fits


class Runtime(Protocol):
    """A loaded model."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """As the model has them, not as its manifest says."""
        ...

    def run(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """Runs a signature on inputs that `check_inputs` passed; from any thread, several at a time. Only `outputs` are
        fetched. Raises `ServingError` for what the model refuses."""
        ...

    def may_batch(self, signature: str) -> bool:
        """Whether several requests' rows may be tried in one run: that can take less than running each, and nothing in
        one of them can hold up or change the others' run, since there is no branch, loop or changing state in it."""
        ...

    def may_slice(self, signature: str) -> bool:
        """Whether a request's rows may be tried in several runs, for the same reason."""
        ...

    def variable_bytes(self, signatures: Sequence[str], most: int) -> int:
        """Of the variables that `frozen` makes constants, for each signature anew; 0: it can't, or there is nothing to
        gain. Nothing large is looked through where there are more than `most`."""
        ...

    def frozen(self, signatures: Sequence[str]) -> Runtime:
        """The same with variables as constants, so that what depends on them alone is computed once, not for each
        request. A second model beside this one. Raises what the framework raises, and `ValueError`."""
        ...


class RuntimeModule(Protocol):
    """A module of this package. Importing it imports the framework and starts nothing."""

    def start(self, threads: int) -> None:
        """Once, before `load`, in the process that runs the model: makes the framework's thread pools. `threads`: how
        many callers `run` will have at a time."""
        ...

    def load(self, folder: Path) -> Runtime:
        """Opens a version's folder. Raises whatever the framework raises."""
        ...


def check_inputs(signature: Signature, inputs: Mapping[str, Tensor]) -> None:
    """Names, element types and shapes against the signature. Raises `ServingError` INVALID_ARGUMENT.

    TensorFlow itself looks at none of the shapes before its kernels do, and some of those end the process.
    """
    if inputs.keys() != signature.inputs.keys():
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"the signature's inputs are {sorted(signature.inputs)}, given were {sorted(inputs)}",
        )
    for name, spec in signature.inputs.items():
        tensor = inputs[name]
        found = datatype_of(tensor)
        if found is not spec.datatype:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"input {name!r} has elements of {spec.datatype.value}, given was {found.value}"
            )
        if not fits(spec, tensor.shape):
            raise ServingError(
                Code.INVALID_ARGUMENT, f"input {name!r} has shape {spec.shape}, given was {list(tensor.shape)}"
            )


def fits(spec: TensorSpec, shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape is one of these."""
    return shape_fits(shape, spec.shape)
