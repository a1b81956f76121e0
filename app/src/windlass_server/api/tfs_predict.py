"""What `:predict` reads and writes, in TensorFlow Serving's JSON, and what of it this server takes for a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windlass_contract.manifest import Signature, TensorSpec
from windlass_server.errors import Code, ServingError
from windlass_server.tensors import Tensor

from .signatures import DEFAULT_SIGNATURE, fits, shape_text
from .tfs_json import format_columns, format_rows, parse_predict


def format_outputs(outputs: Mapping[str, Tensor], *, in_rows: bool, flat: bool) -> bytes:
    """The answer's body, in rows or columns as the request was. Raises `ServingError`."""
    if flat:
        outputs = {name: _flattened(tensor) for name, tensor in outputs.items()}
    return format_rows(outputs) if in_rows else format_columns(outputs)


def predict_inputs(
    signature_name: str, signature: Signature, document: dict[str, Any]
) -> tuple[dict[str, Tensor], bool, bool]:
    """Checked inputs, whether they came in rows, and whether the answer is to be flattened.

    TensorFlow Serving feeds any rank; a wrong one can abort TensorFlow, so here rank and dimensions are the
    signature's. One documented use is kept: a plain list for an input of [-1,1] is taken as a column, and the answer's
    columns come back as plain lists, just as if its shape had been fed unchanged. Raises `ServingError`.
    """
    if not signature.inputs:
        name = "DEFAULT" if signature_name == DEFAULT_SIGNATURE else signature_name
        raise ServingError(Code.INVALID_ARGUMENT, f"Failed to get input map for signature: {name}")
    inputs, in_rows = parse_predict(document, signature)
    flat = False
    for name, tensor in inputs.items():
        spec = signature.inputs[name]
        if fits(tensor.shape, spec):
            continue
        if tensor.ndim == 1 and _is_column(spec):
            inputs[name] = tensor.reshape(-1, 1)
            flat = True
            continue
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"input '{name}' of signature '{signature_name}' expects shape {shape_text(spec.shape)} "
            f"but got {shape_text(tensor.shape)}",
        )
    return inputs, in_rows, flat


def _is_column(spec: TensorSpec) -> bool:
    return spec.shape == [-1, 1]


def _flattened(tensor: Tensor) -> Tensor:
    """[n,1] as [n]; others as they are."""
    return tensor.reshape(-1) if tensor.ndim == 2 and tensor.shape[1] == 1 else tensor
