"""What a version is tried with and how its answers are judged: pure functions of tensors."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windlass_contract.manifest import DataType, Manifest, Signature, TensorSpec
from windlass_contract.samples import AcceptanceSample, Expectation
from windlass_server.tensors import NUMPY_TYPE, Tensor, element_count

SHOWN_SAMPLES = 3
"""How many wrong answers a message tells of."""
_SHOWN_VALUES = 6
_FLOATS = frozenset({DataType.FP16, DataType.BF16, DataType.FP32, DataType.FP64})


class UnusableSampleError(ValueError):
    """A sample that doesn't fit the model: the samples are at fault, not the model."""


@dataclass(frozen=True)
class Verdict:
    """Of the acceptance samples."""

    correct: int
    total: int
    wrong: tuple[str, ...]
    """The first few: name, expected, got."""

    def passed(self, min_score: int) -> bool:
        """`min_score` in thousandths; exact, without rounding."""
        return self.correct * 1000 >= min_score * self.total

    def statistic(self, min_score: int) -> str:
        """For the gate's evidence."""
        score = f"{self.correct / self.total:.3f}".rstrip("0").rstrip(".")
        return f"score {score} of {min_score / 1000:g} ({self.correct} of {self.total} samples)"


def signature_difference(promised: Mapping[str, Signature], loaded: Mapping[str, Signature]) -> str | None:
    """What the loaded model lacks of its manifest's signatures, in words; None: nothing. Sizes that one side leaves
    open agree with any; the manifest needn't name all signatures."""
    for name, signature in promised.items():
        found = loaded.get(name)
        if found is None:
            return f"the manifest promises a signature {name!r}, the model has {sorted(loaded)}"
        if found.method != signature.method:
            return f"signature {name!r}: promised for {signature.method}, the model has it for {found.method}"
        for kind, wanted, real in (
            ("inputs", signature.inputs, found.inputs),
            ("outputs", signature.outputs, found.outputs),
        ):
            if wanted.keys() != real.keys():
                return f"signature {name!r}: promised {kind} are {sorted(wanted)}, the model's are {sorted(real)}"
            for tensor, spec in wanted.items():
                if not _agree(spec, real[tensor]):
                    return (
                        f"signature {name!r}: {kind[:-1]} {tensor!r} is promised as {_show_spec(spec)}, "
                        f"the model has {_show_spec(real[tensor])}"
                    )
    return None


def _agree(one: TensorSpec, other: TensorSpec) -> bool:
    if one.datatype is not other.datatype:
        return False
    if one.shape is None or other.shape is None:
        return True
    return len(one.shape) == len(other.shape) and all(
        a == b or -1 in (a, b) for a, b in zip(one.shape, other.shape, strict=True)
    )


def _show_spec(spec: TensorSpec) -> str:
    return f"{spec.datatype.value} {'of any rank' if spec.shape is None else spec.shape}"


def zeros(signature: Signature, batch: int, max_bytes: int) -> dict[str, Tensor]:
    """Inputs to warm up with: zeros and empty bytes; `batch` rows where the first dimension is open, 1 for every other
    open one. Raises `ValueError` when they would take more than `max_bytes`, before they do."""
    tensors: dict[str, Tensor] = {}
    total = 0
    for name, spec in signature.inputs.items():
        shape = [batch] if spec.shape is None else list(spec.shape)
        sizes = [(batch if axis == 0 else 1) if size == -1 else size for axis, size in enumerate(shape)]
        dtype = NUMPY_TYPE[spec.datatype]
        total += element_count(sizes) * dtype.itemsize
        if total > max_bytes:
            raise ValueError(f"inputs of shape {sizes} take more than the {max_bytes} bytes that a request may have")
        tensors[name] = np.full(sizes, b"", dtype=object) if spec.datatype is DataType.BYTES else np.zeros(sizes, dtype)
    return tensors


def difference(expected: Tensor, got: Tensor, rtol: float, atol: float) -> str | None:
    """How an answer differs from the expected one, in words; None: it doesn't. NaN equals NaN."""
    if expected.shape != got.shape:
        return f"expected shape {list(expected.shape)}, got {list(got.shape)}"
    if expected.dtype.kind in "SUO" or got.dtype.kind in "SUO":
        same = np.asarray([_to_bytes(a) == _to_bytes(b) for a, b in zip(expected.flat, got.flat, strict=True)])
        same = same.reshape(expected.shape)
    elif expected.dtype.kind in "biu" and got.dtype.kind in "biu" and not (rtol or atol):
        same = np.asarray(expected == got)
    else:
        # In double precision: bfloat16 and half have no tolerance arithmetic of their own.
        same = np.isclose(got.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True)
    if same.all():
        return None
    wrong = np.argwhere(~same)
    place = tuple(wrong[0])
    where = f" at {[int(index) for index in place]}" if place else ""
    return (
        f"{len(wrong)} of {expected.size} values differ, the first{where}: "
        f"expected {_show(expected[place])}, got {_show(got[place])}"
    )


def sample_inputs(sample: AcceptanceSample, signature: Signature, max_bytes: int) -> dict[str, Tensor]:
    """A sample's inputs as a batch of one. Raises `UnusableSampleError`."""
    if sample.inputs.keys() != signature.inputs.keys():
        raise UnusableSampleError(f"its inputs are {sorted(sample.inputs)}, the model's are {sorted(signature.inputs)}")
    tensors = {}
    for name, spec in signature.inputs.items():
        try:
            tensor = _to_tensor(sample.inputs[name], spec.datatype)
        except (ValueError, TypeError, OverflowError) as error:
            raise UnusableSampleError(f"input {name!r} is no {spec.datatype.value}: {error}") from error
        shape = [1, *tensor.shape]
        if spec.shape is not None and (
            len(spec.shape) != len(shape)
            or any(wanted not in (-1, size) for wanted, size in zip(spec.shape, shape, strict=True))
        ):
            raise UnusableSampleError(
                f"input {name!r} has shape {list(tensor.shape)} (without the batch), the model's is {spec.shape[1:]}"
            )
        if tensor.nbytes > max_bytes:
            raise UnusableSampleError(f"input {name!r} has {tensor.nbytes} bytes; at most {max_bytes} are sent")
        tensors[name] = tensor.reshape(shape)
    return tensors


def check_expectation(expect: Expectation, signature: Signature, manifest: Manifest) -> str:
    """The name of the output that the expectation is about. Raises `UnusableSampleError` when it can't be met by any
    answer, since it doesn't fit the model."""
    if expect.output is None and len(signature.outputs) != 1:
        raise UnusableSampleError(f"expect.output has to name one of the outputs {sorted(signature.outputs)}")
    output = expect.output if expect.output is not None else next(iter(signature.outputs))
    if output not in signature.outputs:
        raise UnusableSampleError(f"expect.output is {output!r}, the model's outputs are {sorted(signature.outputs)}")
    if expect.class_name is not None and expect.class_name not in manifest.classes:
        raise UnusableSampleError(
            f"expect.className is {expect.class_name!r}, which the manifest's classes don't have: "
            f"{manifest.classes[:10] or 'it names none; use classIndex, or pack with class names'}"
        )
    if expect.values is None and signature.outputs[output].datatype is DataType.BYTES:
        raise UnusableSampleError(f"output {output!r} is BYTES and has no scores; expect values")
    if expect.values is not None:
        _expected_values(expect, signature.outputs[output].datatype)
    return output


def judge(expect: Expectation, answer: Tensor, manifest: Manifest) -> str | None:
    """What is wrong with an answer (a batch of one), as `expected …, got …`; None: it is as expected."""
    got = answer[0] if answer.ndim > 0 and answer.shape[0] == 1 else answer
    if expect.values is not None:
        datatype = next((key for key, dtype in NUMPY_TYPE.items() if dtype == got.dtype), DataType.FP64)
        return difference(_expected_values(expect, datatype), np.asarray(got), expect.rtol, expect.atol)
    wanted = manifest.classes.index(expect.class_name) if expect.class_name is not None else expect.class_index
    assert wanted is not None
    scores = np.asarray(got).astype(np.float64).ravel()
    if wanted >= scores.size:
        return f"expected class {_name(wanted, manifest)}, got {scores.size} scores"
    if np.isnan(scores).any():
        return f"expected class {_name(wanted, manifest)}, got NaN among the scores"
    found = int(np.argmax(scores))
    if found != wanted:
        return f"expected class {_name(wanted, manifest)}, got {_name(found, manifest)} (score {scores[found]:.4g})"
    if expect.min_score is not None and scores[wanted] < expect.min_score:
        return f"expected a score of at least {expect.min_score:g}, got {scores[wanted]:.4g}"
    return None


def _expected_values(expect: Expectation, datatype: DataType) -> Tensor:
    try:
        # Whole numbers and fractions may be written either way; only their values count.
        return _to_tensor(expect.values, DataType.FP64 if datatype in _FLOATS else datatype)
    except (ValueError, TypeError, OverflowError) as error:
        raise UnusableSampleError(f"expect.values are no {datatype.value}: {error}") from error


def _to_tensor(value: Any, datatype: DataType) -> Tensor:
    if datatype is DataType.BYTES:
        return _bytes_tensor(value)
    array = np.asarray(value)
    if array.size == 0:
        return array.astype(NUMPY_TYPE[datatype])
    if array.dtype.kind not in "biuf":
        raise ValueError("numbers in lists of equal lengths are expected")
    if datatype is DataType.BOOL:
        if array.dtype.kind != "b":
            raise ValueError("true and false are expected")
        return array
    if array.dtype.kind == "b":
        raise ValueError("numbers are expected, not true and false")
    if datatype in _FLOATS:
        return array.astype(NUMPY_TYPE[datatype])
    if array.dtype.kind == "f":
        raise ValueError("whole numbers are expected")
    bounds = np.iinfo(NUMPY_TYPE[datatype])
    if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
        raise OverflowError(f"a number beyond {bounds.min} … {bounds.max}")
    return array.astype(NUMPY_TYPE[datatype])


def _bytes_tensor(value: Any) -> Tensor:
    shape = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        if not first:
            break
        first = first[0]
    tensor = np.empty(shape, dtype=object)
    flat: list[bytes] = []
    _flatten(value, len(shape), flat)
    if len(flat) != tensor.size:
        raise ValueError("lists of equal lengths are expected")
    for index, element in enumerate(flat):
        tensor.flat[index] = element
    return tensor


def _flatten(value: Any, depth: int, into: list[bytes]) -> None:
    if depth == 0:
        into.append(_to_bytes(value))
    elif isinstance(value, list):
        for each in value:
            _flatten(each, depth - 1, into)
    else:
        raise TypeError("lists of equal depth are expected")


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, Mapping) and value.keys() == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error as error:
            raise ValueError(f"b64: {error}") from error
    raise TypeError(f'text or {{"b64": "…"}} is expected, found {type(value).__name__}')


def _name(index: int, manifest: Manifest) -> str:
    name = manifest.classes[index] if index < len(manifest.classes) else str(index)
    return f"{index} ({name})" if name != str(index) else name


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return repr(value[:40]) + ("…" if len(value) > 40 else "")
    if isinstance(value, np.ndarray):
        return str(value.ravel()[:_SHOWN_VALUES].tolist())
    return f"{float(value):.6g}" if np.asarray(value).dtype.kind not in "biuO" else str(value)


def batches(signature: Signature, inputs: Mapping[str, Tensor]) -> Sequence[slice]:
    """How arrays of samples along axis 0 are cut into runs: all at once where the batch is open, else in pieces of the
    model's fixed batch."""
    sizes = {spec.shape[0] for spec in signature.inputs.values() if spec.shape}
    fixed = next((size for size in sizes if size != -1), None)
    count = min((tensor.shape[0] for tensor in inputs.values() if tensor.ndim), default=1)
    if fixed is None or fixed == 0:
        return [slice(None)]
    return [slice(start, start + fixed) for start in range(0, count, fixed)]
