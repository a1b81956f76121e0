"""`.tflite` files, by LiteRT; TensorFlow is not imported.

An interpreter runs one request at a time, so there is one for each caller. They take turns, so that warming up as
often as there are interpreters warms all of them.
"""

from __future__ import annotations

import mmap
import queue
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from windlass_contract.manifest import DataType, Signature, TensorSpec
from windlass_contract.tflite_operators import builtin_operators
from windlass_server.errors import Code, ServingError
from windlass_server.tensors import Tensor, datatype_of

_MAX_MESSAGE = 1000
DEFAULT_SIGNATURE = "serving_default"
"""What a model without signatures gets, with the names of its tensors."""
MODEL_FILE = "model.tflite"
_NOT_ONLY_COMPUTING = frozenset(
    {
        *(16, 24, 27, 35, 44, 46, 52),  # LSTM, RNN, SVDF and their kin, which remember
        *(31, 118, 119, 129, 200, 206, 209),  # CALL, IF, WHILE, CALL_ONCE, STABLEHLO_WHILE, _COMPOSITE, _CASE
        *(136, 137, 138, 139, 142, 143, 144),  # HASHTABLE…, VAR_HANDLE, READ_VARIABLE, ASSIGN_VARIABLE
        *(146, 148, 149, 204),  # RANDOM_…, MULTINOMIAL, STABLEHLO_RNG_BIT_GENERATOR
        *(32, 51, 173),  # CUSTOM, DELEGATE, STABLEHLO_CUSTOM_CALL: who knows
    }
)
"""Numbers of TensorFlow's schema.fbs."""
_NEWEST_OPERATOR = 209
"""Of those that the set was made from."""
_callers = 1


def start(threads: int) -> None:
    """Remembers how many interpreters there are to be; LiteRT has no threads of its own to start."""
    global _callers  # noqa: PLW0603 - of this process, which holds one model
    _callers = threads


def load(folder: Path) -> LiteRTRuntime:
    """Opens the version's only `.tflite` file. Raises `ValueError`."""
    files = sorted(folder.glob("*.tflite"))
    if len(files) != 1:
        raise ValueError(f"{folder} has {len(files)} .tflite files; one is expected, {MODEL_FILE}")
    return LiteRTRuntime(files[0], _callers)


class LiteRTRuntime:
    """A loaded TFLite model."""

    def __init__(self, path: Path, callers: int) -> None:
        self._interpreters: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._runners: dict[tuple[int, str], Any] = {}
        """By interpreter and signature: each is found out once."""
        for _ in range(callers):
            # The file is mapped, so interpreters share its weights.
            interpreter = Interpreter(model_path=str(path), num_threads=1)
            interpreter.allocate_tensors()
            self._interpreters.put(interpreter)
        self._only_computes = _only_computes(path)
        self._named = bool(interpreter.get_signature_list())
        self._signatures = _signatures(interpreter)

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """See `Runtime`."""
        return self._signatures

    def run(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """See `Runtime`."""
        interpreter = self._interpreters.get()
        try:
            run = self._run_signature if self._named else self._run_tensors
            answer = run(interpreter, signature, inputs)
            return {name: _to_numpy(answer[name]) for name in outputs}
        except (ValueError, RuntimeError) as error:
            # LiteRT says no more than this; shapes that its kernels refuse are by far the most frequent cause.
            raise ServingError(Code.INVALID_ARGUMENT, str(error).strip()[:_MAX_MESSAGE]) from None
        finally:
            self._interpreters.put(interpreter)

    def may_batch(self, _signature: str) -> bool:
        """Never: a run takes microseconds, and for another number of rows an interpreter plans its memory anew."""
        return False

    def may_slice(self, _signature: str) -> bool:
        """See `Runtime`. By all operators of the file."""
        return self._only_computes

    def variable_bytes(self, _signatures: Sequence[str], _most: int) -> int:
        """See `Runtime`. The converter has made constants of all."""
        return 0

    def frozen(self, signatures: Sequence[str]) -> LiteRTRuntime:
        """See `Runtime`."""
        raise ValueError(f"there are no variables in {', '.join(signatures)}")

    def _run_signature(self, interpreter: Any, signature: str, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        key = id(interpreter), signature
        runner = self._runners.get(key)
        if runner is None:
            runner = self._runners[key] = interpreter.get_signature_runner(signature)
        answer: dict[str, Any] = runner(**inputs)
        return answer

    def _run_tensors(self, interpreter: Any, _signature: str, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        indexes = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
        for name, tensor in inputs.items():
            interpreter.resize_tensor_input(indexes[name], tensor.shape)
        interpreter.allocate_tensors()
        for name, tensor in inputs.items():
            interpreter.set_tensor(indexes[name], tensor)
        interpreter.invoke()
        return {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()}


def _only_computes(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        try:
            found = builtin_operators(view)
        finally:
            view.release()
    return not found & _NOT_ONLY_COMPUTING and max(found, default=0) <= _NEWEST_OPERATOR


def _signatures(interpreter: Any) -> dict[str, Signature]:
    names = interpreter.get_signature_list()
    if not names:
        return {
            DEFAULT_SIGNATURE: Signature(
                inputs={detail["name"]: _spec(detail) for detail in interpreter.get_input_details()},
                outputs={detail["name"]: _spec(detail) for detail in interpreter.get_output_details()},
            )
        }
    signatures = {}
    for name in names:
        runner = interpreter.get_signature_runner(name)
        signatures[name] = Signature(
            inputs={key: _spec(detail) for key, detail in runner.get_input_details().items()},
            outputs={key: _spec(detail) for key, detail in runner.get_output_details().items()},
        )
    return signatures


def _spec(detail: Mapping[str, Any]) -> TensorSpec:
    datatype = datatype_of(np.empty(0, dtype=detail["dtype"]))
    # Models converted before TensorFlow 2.3 have no shape_signature: the shape is then all that is known.
    shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    return TensorSpec(datatype=datatype, shape=[int(size) for size in shape])


def _to_numpy(value: Any) -> Tensor:
    array = np.asarray(value)
    return array.astype(object) if datatype_of(array) is DataType.BYTES else array
