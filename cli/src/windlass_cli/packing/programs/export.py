"""Makes a SavedModel of a Keras model, or of a SavedModel, with the user's preprocessing in front of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass_cli.errors import UserError
from windlass_cli.packing.signatures import DEFAULT_SIGNATURE

from .program import Teller, load_module, run

_AUTOMATIC_INPUTS = re.compile(r"(input|input_layer|inputs|keras_tensor|.*_input)(_\d+)?")


_NO_TENSORS = (NotImplementedError, TypeError, AttributeError, ValueError)
"""What Python code raises that was written for values, not for a graph's tensors."""


@dataclass
class Core:
    """The model without preprocessing: `call` takes its inputs by name and gives its outputs by name."""

    inputs: dict[str, Any]
    """Name to `tf.TensorSpec`, in the model's order."""
    call: Callable[[Mapping[str, Any]], dict[str, Any]]
    keep: list[Any]
    """What has to be saved with it: models, variables."""


def work(request: dict[str, Any], teller: Teller) -> dict[str, Any]:
    """Request: `source`, `target`, `preprocess` (`file.py:function`), `inputSpecs` (name to {dtype, shape}), `modules`,
    `allowCode`."""
    teller.step("importing TensorFlow")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    given = {
        name: tf.TensorSpec([None if size == -1 else size for size in spec["shape"]], spec["dtype"], name=name)
        for name, spec in request["inputSpecs"].items()
    }
    source = Path(request["source"])
    teller.step(f"reading {source.name}")
    preprocess = request["preprocess"]
    if source.is_dir():
        core = _saved_model(source)
    else:
        # Given specs describe the preprocessing's inputs when there is one.
        core = _keras_model(source, request["modules"], request["allowCode"], {} if preprocess else given)
    specs, serve = core.inputs, core.call
    if preprocess:
        teller.step(f"putting {preprocess} in front of it")
        specs, serve, kept = _with_preprocessing(core, preprocess, given)
        core.keep.extend(kept)
    _save(core.keep, specs, serve, Path(request["target"]), teller)
    return {}


def _saved_model(source: Path) -> Core:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(source))
    function = loaded.signatures.get(DEFAULT_SIGNATURE)
    if function is None:
        raise UserError(
            f"{source} has no signature {DEFAULT_SIGNATURE!r} to put preprocessing in front of, only "
            f"{sorted(loaded.signatures)}"
        )
    return Core(
        inputs=dict(sorted(function.structured_input_signature[1].items())),
        call=lambda inputs: dict(function(**inputs)),
        keep=[loaded],
    )


def _keras_model(source: Path, modules: list[str], allow_code: bool, given: dict[str, Any]) -> Core:
    import keras
    import tensorflow as tf

    custom: dict[str, Any] = {}
    for path in modules:
        found = vars(load_module(path))
        custom |= {name: value for name, value in found.items() if callable(value) and not name.startswith("_")}
    try:
        model = keras.saving.load_model(source, custom_objects=custom, compile=False, safe_mode=not allow_code)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise UserError(_why_not_loaded(source, str(error))) from error
    names = _input_names(model)
    if names is None:
        if not given:
            raise UserError(
                f"{source} doesn't say what its inputs are; say it with --input-spec, e.g. "
                "--input-spec 'image=FP32[-1,28,28,1]' (-1: any size; the first is the batch)"
            )
        specs = given
    else:
        specs = {
            name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
            for name, tensor in zip(names, model.inputs, strict=True)
        }
        if unknown := set(given) - set(specs):
            raise UserError(f"--input-spec names {sorted(unknown)}; the inputs of {source} are {list(specs)}")
        specs |= given

    def call(inputs: Mapping[str, Any]) -> dict[str, Any]:
        ordered = [inputs[name] for name in specs]
        if names is None or isinstance(model, keras.Sequential):
            answer = model(ordered[0] if len(ordered) == 1 else dict(inputs), training=False)
        else:
            answer = model(keras.tree.pack_sequence_as(model.input, ordered), training=False)
        return _named_outputs(model, answer)

    return Core(inputs=specs, call=call, keep=[model, [variable.value for variable in model.variables]])


def _why_not_loaded(source: Path, message: str) -> str:
    shown = " ".join(message.split())
    shown = shown if len(shown) <= 600 else shown[:597] + "…"
    if "safe_mode" in message or "enable_unsafe_deserialization" in message:
        remedy = "It holds Python code (a Lambda layer): give --allow-code if you trust where it comes from"
    elif "Could not locate" in message or "Unknown layer" in message or "custom" in message:
        remedy = "Its own classes and functions are needed: give --module FILE.py with the code that defines them"
    elif source.suffix in {".h5", ".hdf5"}:
        remedy = (
            "If Keras 2 wrote it and Keras 3 can't read it: load it where it was trained, "
            "model.export('folder') or tf.saved_model.save(model, 'folder'), and pack that folder"
        )
    else:
        remedy = "Load it where it was trained, model.export('folder'), and pack that folder"
    return f"Keras can't load {source}: {shown} — {remedy}"


def _input_names(model: Any) -> list[str] | None:
    """Names that people gave are kept; automatic ones count up with each model of a session, so that they would change
    with every training: they become input_0, input_1, … What can't be an argument of TensorFlow's functions is written
    as they write it: `a-b` as `a_b`, `1x` as `arg_1x`."""
    if not getattr(model, "inputs", None):
        return None
    names = [str(tensor.name).split(":")[0] for tensor in model.inputs]
    names = [
        f"input_{index}" if _AUTOMATIC_INPUTS.fullmatch(name) else re.sub(r"^(?=\d)", "arg_", re.sub(r"\W", "_", name))
        for index, name in enumerate(names)
    ]
    return names if len(set(names)) == len(names) else [f"input_{index}" for index in range(len(names))]


def _named_outputs(model: Any, answer: Any) -> dict[str, Any]:
    if isinstance(answer, Mapping):
        return dict(answer)
    answers = list(answer) if isinstance(answer, (list, tuple)) else [answer]
    names = getattr(model, "output_names", None)
    if names is None and len(answers) == 1 and getattr(model, "layers", None):
        names = [model.layers[-1].name]
    if names is None or len(names) != len(answers) or len(set(names)) != len(names):
        names = [""] * len(answers)
    layers = {layer.name: layer for layer in model.layers}
    return {
        f"output_{index}" if _is_automatic(name, layers) else name: value
        for index, (name, value) in enumerate(zip(names, answers, strict=True))
    }


def _is_automatic(name: str, layers: Mapping[str, Any]) -> bool:
    """Whether Keras made the name up of the layer's class."""
    if name not in layers:
        return True
    kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(layers[name]).__name__).lower()
    return re.fullmatch(rf"{re.escape(kind)}(_\d+)?", name) is not None or "/" in name


def _with_preprocessing(
    core: Core, preprocess: str, given: dict[str, Any]
) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], dict[str, Any]], list[Any]]:
    import tensorflow as tf

    path, _, attribute = preprocess.rpartition(":")
    module = load_module(path)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(f"--preprocess: {path} has no function {attribute!r}")
    specs = _specs_of(function, preprocess, given)
    # Python's if and for on tensors are turned into the graph's own, in the user's function alone.
    traced = tf.function(function) if inspect.isfunction(function) else function

    def serve(inputs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            prepared = traced(**inputs)
        except _NO_TENSORS as error:
            raise UserError(
                f"--preprocess: {attribute} can't become part of the model's graph; write it with tf operations "
                "(numpy, PIL and .numpy() need values, which are only there when a request comes): "
                f"{_last_line(error)}"
            ) from error
        if not isinstance(prepared, Mapping):
            values = list(prepared) if isinstance(prepared, (list, tuple)) else [prepared]
            if len(values) != len(core.inputs):
                raise UserError(
                    f"--preprocess: {attribute} returns {len(values)} tensors, the model takes {list(core.inputs)}"
                )
            prepared = dict(zip(core.inputs, values, strict=True))
        if set(prepared) != set(core.inputs):
            raise UserError(
                f"--preprocess: {attribute} returns {sorted(prepared)}, the model takes {sorted(core.inputs)}"
            )
        _check_shapes(prepared, core.inputs, attribute)
        return core.call(prepared)

    return specs, serve, [value for value in vars(module).values() if _is_trackable(value)]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


def _check_shapes(prepared: Mapping[str, Any], specs: Mapping[str, Any], attribute: str) -> None:
    for name, spec in specs.items():
        value = prepared[name]
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise UserError(
                f"--preprocess: {attribute} returns a {type(value).__name__} for {name!r}; write it with tf "
                "operations, since it becomes part of the model's graph (numpy and PIL can't)"
            )
        if not spec.shape.is_compatible_with(value.shape):
            raise UserError(
                f"--preprocess: {attribute} returns shape {value.shape} for {name!r}, the model takes {spec.shape}; "
                "it gets and returns whole batches (the first dimension)"
            )


def _specs_of(function: Any, preprocess: str, given: dict[str, Any]) -> dict[str, Any]:
    import tensorflow as tf

    target = function.call if hasattr(function, "call") and not inspect.isfunction(function) else function
    target = getattr(target, "python_function", target)
    annotations = inspect.get_annotations(getattr(target, "__func__", target), eval_str=True)
    specs = {}
    for name in inspect.signature(target).parameters:
        spec = given.get(name, annotations.get(name))
        if not isinstance(spec, tf.TensorSpec):
            raise UserError(
                f"--preprocess {preprocess}: what is {name!r}? Annotate it, e.g. {name}: tf.TensorSpec([None, 28, 28], "
                f"tf.uint8), or give --input-spec '{name}=UINT8[-1,28,28]' (the first dimension is the batch)"
            )
        specs[name] = tf.TensorSpec(spec.shape, spec.dtype, name=name)
    if unknown := set(given) - set(specs):
        raise UserError(f"--input-spec names {sorted(unknown)}; {preprocess} takes {list(specs)}")
    return specs


def _is_trackable(value: Any) -> bool:
    """Layers, tables and variables that the preprocessing uses are saved with it."""
    import keras
    import tensorflow as tf

    kinds = (tf.Module, tf.Variable, keras.Layer, tf.saved_model.experimental.TrackableResource)
    return isinstance(value, kinds)


def _save(keep: list[Any], specs: dict[str, Any], serve: Callable[..., Any], target: Path, teller: Teller) -> None:
    import tensorflow as tf
    from tensorflow.core.protobuf import fingerprint_pb2

    module = tf.Module()
    module.kept = keep
    teller.step("tracing its function")
    function = tf.function(lambda **inputs: serve(inputs), autograph=False).get_concrete_function(**specs)
    teller.step("writing the SavedModel")
    tf.saved_model.save(module, str(target), signatures={DEFAULT_SIGNATURE: function})
    # TensorFlow gives each save a random id; without it the same model has the same bytes, and so the same digest.
    path = target / "fingerprint.pb"
    fingerprint = fingerprint_pb2.FingerprintDef()
    fingerprint.ParseFromString(path.read_bytes())
    fingerprint.uuid = str(fingerprint.saved_model_checksum)
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))


if __name__ == "__main__":
    run(work)
