"""SavedModels, by TensorFlow. Importing this module imports TensorFlow, and runs no operation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry  # no public way says whether an operation has state
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2  # it has no public name

from windlass_contract.manifest import ELEMENT_TYPES, DataType, Signature, TensorSpec
from windlass_server.errors import Code, ServingError
from windlass_server.runtimes.saved_model_methods import methods
from windlass_server.tensors import NUMPY_TYPE, Tensor

_MAX_MESSAGE = 1000
_READING_TABLES = frozenset({"HashTableV2", "MutableHashTableV2", "LookupTableFindV2"})
_READING = _READING_TABLES | frozenset(
    {"Placeholder", "VarHandleOp", "ReadVariableOp", "ResourceGather", "StatefulPartitionedCall"}
)
"""What TensorFlow calls stateful since it depends on variables and tables, and doesn't change them."""
_FEW_VARIABLES = 16
"""Fewer are one or two layers: nothing in them can be computed ahead."""
_CONTROL_FLOW = frozenset(
    {
        *("StatelessIf", "StatelessCase", "StatelessWhile", "If", "Case", "While", "For"),
        *("Switch", "RefSwitch", "Merge", "RefMerge", "Enter", "RefEnter", "Exit", "RefExit", "NextIteration"),
        *("RefNextIteration", "LoopCond", "MapDefun", "XlaIf", "XlaWhile"),
    }
)
_CODES: list[tuple[Any, Code]] = [
    (tf.errors.InvalidArgumentError, Code.INVALID_ARGUMENT),
    (tf.errors.OutOfRangeError, Code.INVALID_ARGUMENT),
    (tf.errors.ResourceExhaustedError, Code.RESOURCE_EXHAUSTED),
    (tf.errors.UnimplementedError, Code.UNIMPLEMENTED),
    (tf.errors.UnavailableError, Code.UNAVAILABLE),
    (tf.errors.DeadlineExceededError, Code.DEADLINE_EXCEEDED),
]
# What TensorFlow says about its own insides is no help to a client.
_NOISE = re.compile(r"^(Graph execution error:|Detected at node .*|<stack traces unavailable>|\s*)$")
_PLACES = re.compile(r"\s*(\[\[\{\{.*?\}\}\]\]|\[Op:\w+\])|\{\{(function_node|node) [^}]*\}\}\s*|\s*name:\s*\Z")


def start(threads: int) -> None:
    """Makes TensorFlow's thread pools. Requests run beside each other, not within each other: so one thread within an
    operation, and as many between operations as there are callers. (That pool runs whole functions; with one thread
    in it a slow request would hold up all others, whatever the number of callers.)"""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    # Makes the context, and with it the pools, on the calling thread: they inherit its priority. So does a thread that
    # comes with the first tensor.
    tf.config.list_logical_devices()
    tf.constant(0)


def load(folder: Path) -> TensorFlowRuntime:
    """Loads the meta graph tagged `serve`. Raises what TensorFlow raises, `ServingError` when there is not enough
    memory, and `ValueError` for a model without usable signatures."""
    try:
        return TensorFlowRuntime.of(folder)
    except tf.errors.ResourceExhaustedError as error:
        raise _refusal(error) from None


class TensorFlowRuntime:
    """A loaded SavedModel."""

    def __init__(
        self,
        functions: Mapping[str, Any],
        signatures: Mapping[str, Signature],
        calls: Mapping[str, _Call],
        model: Any,
        operations: Mapping[str, frozenset[str]] = MappingProxyType({}),
    ) -> None:
        """`model`: what has to live as long as the functions. `operations`: of signatures, where they are known."""
        self._model = model
        self._functions = functions
        self._signatures = signatures
        self._calls = calls
        self._operations = dict(operations)

    @classmethod
    def of(cls, folder: Path) -> TensorFlowRuntime:
        """Loads it. Raises what `load` says."""
        method_names = methods(folder / "saved_model.pb")
        model = tf.saved_model.load(str(folder), tags=["serve"])
        functions = dict(model.signatures)
        signatures = {name: _signature(function, method_names.get(name, "")) for name, function in functions.items()}
        if not signatures:
            raise ValueError("the SavedModel has no signatures; save it with signatures=…")
        calls = {name: _call_of(function, signatures[name]) for name, function in functions.items()}
        return cls(functions, signatures, calls, model)

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """See `Runtime`."""
        return self._signatures

    def run(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """See `Runtime`."""
        try:
            answer = self._calls[signature]({name: _to_tensorflow(tensor) for name, tensor in inputs.items()})
            return {name: _to_numpy(answer[name]) for name in outputs}
        except tf.errors.OpError as error:
            raise _refusal(error) from None

    def may_batch(self, signature: str) -> bool:
        """See `Runtime`. By its graph, and those of all functions that it calls."""
        return all(_only_computes(operation) for operation in self._operations_of(signature))

    def may_slice(self, signature: str) -> bool:
        """See `Runtime`."""
        return self.may_batch(signature)

    def variable_bytes(self, signatures: Sequence[str], most: int) -> int:
        """See `Runtime`. Only of models that do nothing but compute and read variables."""
        if not all(isinstance(self._calls[name], _Operation) for name in signatures):
            return 0
        variables = [each for name in signatures for each in self._functions[name].variables]
        known = all(each.shape.is_fully_defined() for each in variables)
        if not known or len({id(each) for each in variables}) < _FEW_VARIABLES:
            return 0
        size = sum(int(each.shape.num_elements()) * int(each.dtype.size) for each in variables)
        if size > most:
            return size
        for name in signatures:
            function = self._functions[name]
            if len(function.variables) != len(function.captured_inputs):
                return 0
            if not self.may_batch(name) or self._operations_of(name) & _READING_TABLES:
                return 0
        return size

    def frozen(self, signatures: Sequence[str]) -> TensorFlowRuntime:
        """See `Runtime`. This one isn't to be used any more where it raises."""
        functions = {}
        calls: dict[str, _Call] = {}
        for name in signatures:
            call = self._calls[name]
            function = convert_variables_to_constants_v2(self._functions[name], lower_control_flow=False)
            if not isinstance(call, _Operation) or function.captured_inputs:
                raise ValueError(f"signature {name} depends on more than variables")
            if function.graph.as_graph_def().library.function:
                # Two models would share these by name, and they would go with the first of them.
                raise ValueError(f"signature {name} calls functions that can't become part of it")
            functions[name] = function
            calls[name] = call.with_function(function)
        # Its own graphs hold all constants: they aren't to be looked through.
        operations = {name: self._operations_of(name) for name in signatures}
        return TensorFlowRuntime(
            functions, {name: self._signatures[name] for name in signatures}, calls, None, operations
        )

    def _operations_of(self, signature: str) -> frozenset[str]:
        """The kinds of operations in its graph, and in those of all functions that it calls."""
        known = self._operations.get(signature)
        if known is None:
            graph = self._functions[signature].graph.as_graph_def()
            functions = {function.signature.name for function in graph.library.function}
            nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
            known = self._operations[signature] = frozenset({node.op for node in nodes} - functions)
        return known


class _Operation:
    """A signature's function, called as an operation. Called as a function it does the same, after looking again, in
    Python, at what `check_inputs` has looked at: that takes five times as long as a small model's run."""

    def __init__(self, function: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._function = function
        self._inputs = inputs
        self._captured = list(function.captured_inputs)
        self._outputs = outputs
        self._types = [tensor.dtype for tensor in function.outputs]

    def with_function(self, function: Any) -> _Operation:
        """The same of another function. Raises `ValueError` when it isn't like this one."""
        given, returned = (
            [[tensor.dtype for tensor in tensors] for tensors in (each.inputs[: len(self._inputs)], each.outputs)]
            for each in (self._function, function)
        )
        if len(function.inputs) != len(self._inputs) or given != returned:
            raise ValueError("the frozen function has other inputs or outputs")
        return _Operation(function, self._inputs, self._outputs)

    def __call__(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Its outputs."""
        arguments = [*(tensors[name] for name in self._inputs), *self._captured]
        results = tf.raw_ops.StatefulPartitionedCall(args=arguments, Tout=self._types, f=self._function)
        return dict(zip(self._outputs, results, strict=True))


_Call = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def _call_of(function: Any, signature: Signature) -> _Call:
    """The quickest way to call it that its inputs' and outputs' order is known for."""
    inputs, outputs = _input_order(function), sorted(signature.outputs)
    types = [NUMPY_TYPE[signature.outputs[name].datatype] for name in outputs]
    if inputs is None or types != [np.dtype(tensor.dtype.as_numpy_dtype) for tensor in function.outputs]:
        return lambda tensors: function(**tensors)
    return _Operation(function, inputs, outputs)


def _input_order(function: Any) -> list[str] | None:
    """Found out by having TensorFlow order tensors that are known; None: it does it in another way."""
    _, specs = function.structured_input_signature
    try:
        known = {name: tf.zeros([size or 1 for size in spec.shape], spec.dtype) for name, spec in specs.items()}
        ordered = function.function_type.unpack_inputs(function.function_type.bind(**known))
    except (AttributeError, TypeError, ValueError):  # of any rank, or made by TensorFlow 1
        return None
    order = [next((name for name, tensor in known.items() if tensor is each), "") for each in ordered]
    return order if sorted(order) == sorted(known) else None


def _only_computes(operation: str) -> bool:
    known = op_def_registry.get(operation)
    if known is None or operation in _CONTROL_FLOW:
        return False
    return operation in _READING if known.is_stateful else True


def _signature(function: Any, method_name: str) -> Signature:
    _, inputs = function.structured_input_signature
    method = method_name.rpartition("/")[2]
    known: Literal["predict", "classify", "regress"] = (
        "classify" if method == "classify" else "regress" if method == "regress" else "predict"
    )
    return Signature(
        inputs={name: _spec(tensor) for name, tensor in inputs.items()},
        outputs={name: _spec(tensor) for name, tensor in function.structured_outputs.items()},
        method=known,
    )


def _spec(tensor: Any) -> TensorSpec:
    datatype = ELEMENT_TYPES.get(tensor.dtype.name)
    if datatype is None:
        raise ValueError(f"a tensor of {tensor.dtype.name}, which no protocol can carry")
    if tensor.shape.rank is None:
        return TensorSpec(datatype=datatype, shape=None)
    return TensorSpec(datatype=datatype, shape=[-1 if size is None else int(size) for size in tensor.shape])


def _to_tensorflow(tensor: Tensor) -> Any:
    if tensor.dtype == NUMPY_TYPE[DataType.BYTES] and tensor.size == 0:
        # An empty array of objects says nothing about its elements.
        return tf.constant([], dtype=tf.string, shape=tensor.shape)
    return tf.constant(tensor)


def _to_numpy(tensor: Any) -> Tensor:
    value = tensor.numpy()
    # A scalar of strings comes as bytes, of numbers as a numpy scalar.
    if tensor.dtype == tf.string and not isinstance(value, np.ndarray):
        scalar = np.empty((), dtype=object)
        scalar[()] = value
        return scalar
    return np.asarray(value)


def _refusal(error: Any) -> ServingError:
    lines = [line.strip() for line in str(error.message).splitlines() if not _NOISE.match(line)]
    message = _PLACES.sub("", " ".join(lines))[:_MAX_MESSAGE] or type(error).__name__
    for kind, code in _CODES:
        if isinstance(error, kind):
            return ServingError(code, message)
    return ServingError(Code.INTERNAL, f"{type(error).__name__}: {message}")
