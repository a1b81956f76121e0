"""Signatures of a loaded model, as the manifest lists them. A replica reads them by the same rules and compares.

SavedModel: inputs and outputs are those of each signature function, by the names of its SignatureDef; the method is
the SignatureDef's. TFLite: those of each signature runner, with -1 where the shape is open; a file without signatures
has `serving_default` with its tensors' own names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from windlass_cli.errors import UserError
from windlass_contract.manifest import ELEMENT_TYPES, DataType, Signature, TensorSpec

DEFAULT_SIGNATURE = "serving_default"

_TYPES = {**ELEMENT_TYPES, **dict.fromkeys(("bytes", "str", "object"), DataType.BYTES)}
_TENSORFLOW_NAMES = {datatype: name for name, datatype in ELEMENT_TYPES.items()}
_METHODS = {"tensorflow/serving/classify": "classify", "tensorflow/serving/regress": "regress"}


def tensorflow_name(datatype: DataType) -> str:
    """TensorFlow's name of an element type, e.g. `float32`."""
    return _TENSORFLOW_NAMES[datatype]


def saved_model_methods(saved_model_pb: bytes) -> dict[str, str]:
    """Signature name to `predict`, `classify` or `regress`, of the meta graph with the tag `serve`. Needs TensorFlow.
    Raises `UserError`."""
    from tensorflow.core.protobuf import saved_model_pb2

    document = saved_model_pb2.SavedModel()
    try:
        document.ParseFromString(saved_model_pb)
    except Exception as error:
        raise UserError(f"saved_model.pb can't be read ({error}); export the model again") from error
    for graph in document.meta_graphs:
        if "serve" in graph.meta_info_def.tags:
            return {
                name: _METHODS.get(definition.method_name, "predict")
                for name, definition in graph.signature_def.items()
            }
    found = [list(graph.meta_info_def.tags) for graph in document.meta_graphs]
    raise UserError(f"the SavedModel has no graph with the tag 'serve' (found: {found}); save it for serving")


def saved_model_signatures(loaded: Any, methods: Mapping[str, str]) -> dict[str, Signature]:
    """Of what `tf.saved_model.load` gave."""
    return {
        name: Signature.model_validate(
            {
                "inputs": _specs((key, spec.dtype.name, spec.shape) for key, spec in _inputs(function).items()),
                "outputs": _specs(
                    (key, spec.dtype.name, spec.shape) for key, spec in function.structured_outputs.items()
                ),
                "method": methods.get(name, "predict"),
            }
        )
        for name, function in sorted(loaded.signatures.items())
    }


def tflite_signatures(interpreter: Any) -> dict[str, Signature]:
    """Of a LiteRT interpreter."""
    names = sorted(interpreter.get_signature_list())
    if not names:
        return {
            DEFAULT_SIGNATURE: Signature(
                inputs=_specs(_details({each["name"]: each for each in interpreter.get_input_details()})),
                outputs=_specs(_details({each["name"]: each for each in interpreter.get_output_details()})),
            )
        }
    signatures = {}
    for name in names:
        runner = interpreter.get_signature_runner(name)
        signatures[name] = Signature(
            inputs=_specs(_details(runner.get_input_details())), outputs=_specs(_details(runner.get_output_details()))
        )
    return signatures


def _inputs(function: Any) -> Mapping[str, Any]:
    _positional, named = function.structured_input_signature
    result: Mapping[str, Any] = named
    return result


def _details(details: Mapping[str, Any]) -> Iterable[tuple[str, str, Any]]:
    import numpy as np

    for name, detail in details.items():
        shape = detail.get("shape_signature")
        yield name, np.dtype(detail["dtype"]).name, detail["shape"] if shape is None else shape


def _specs(tensors: Iterable[tuple[str, str, Any]]) -> dict[str, TensorSpec]:
    specs = {}
    for name, dtype, shape in sorted(tensors):
        # numpy's names of strings carry their length in bits: bytes8.
        datatype = _TYPES.get(dtype) or _TYPES.get(dtype.rstrip("0123456789"))
        if datatype is None:
            raise UserError(f"tensor {name!r} has elements of {dtype}, which no protocol carries; cast it in the model")
        rank = getattr(shape, "rank", len(shape) if not hasattr(shape, "rank") else None)
        dimensions = None if rank is None else [-1 if size is None or size < 0 else int(size) for size in shape]
        specs[name] = TensorSpec(datatype=datatype, shape=dimensions)
    return specs
