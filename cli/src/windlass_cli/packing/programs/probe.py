"""Loads a packed model in a fresh process: reads its signatures, answers parity inputs, measures its memory."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from windlass_cli.errors import UserError
from windlass_cli.packing.image import image_input
from windlass_cli.packing.sample_inputs import Arrays, attempts, dtype_of, given
from windlass_cli.packing.signatures import (
    DEFAULT_SIGNATURE,
    saved_model_methods,
    saved_model_signatures,
    tensorflow_name,
    tflite_signatures,
)
from windlass_contract.manifest import DataType, ImageInput, ModelFormat, ParitySamples, Signature

from .program import Teller, run

TFLITE_FILE = "model.tflite"
_MEMORY_STEP = 16 * 1024 * 1024
MAX_PARITY_BYTES = 64 * 1024 * 1024
"""Of a version; replicas read no more."""
MAX_PARITY_STRINGS = 1_000_000
"""In one array; replicas read no more."""


@dataclass
class Loaded:
    """A model that can answer."""

    signatures: dict[str, Signature]
    call: Callable[[str, Arrays], Arrays]
    refusals: tuple[type[Exception], ...]
    """What it raises for inputs that it doesn't take."""
    picture: Callable[[int], bytes]
    producer: dict[str, str]


def work(request: dict[str, Any], teller: Teller) -> dict[str, Any]:
    """Request: `folder`, `format`, `parity` (whether), `parityInputs` (a file), `image`, `warmupBatchSizes`, `measure`,
    `into` (folder for the samples), `rtol`, `atol`."""
    tflite = request["format"] == ModelFormat.TFLITE.value
    teller.step("importing " + ("LiteRT" if tflite else "TensorFlow"))
    importlib.import_module("ai_edge_litert.interpreter" if tflite else "tensorflow")
    # As in a replica: what the framework's import takes is shared by all versions, and isn't this one's memory.
    go_on_in_child()
    teller.step("loading the model as a replica will")
    folder = Path(request["folder"])
    loaded = load_tflite(folder / TFLITE_FILE) if tflite else load_saved_model(folder)
    if not loaded.signatures:
        raise UserError(
            "the model has no signature to call; save it with one: model.export('folder'), or "
            "tf.saved_model.save(module, 'folder', signatures=…)"
        )
    image = image_input(request["image"], loaded.signatures)
    samples = []
    if request["parity"]:
        for name in loaded.signatures:
            teller.step(f"answering parity inputs: {name}")
            if sample := _parity(loaded, name, image, request, teller):
                samples.append(sample.to_dict())
    teller.step("warming up")
    for size in request["warmupBatchSizes"]:
        for name, signature in loaded.signatures.items():
            _warm_up(loaded, name, signature, size, teller, tried={sample["signature"] for sample in samples})
    result: dict[str, Any] = {
        "signatures": {name: signature.to_dict() for name, signature in loaded.signatures.items()},
        "parity": samples,
        "image": None if image is None else image.to_dict(),
        "producer": loaded.producer,
    }
    if request["measure"]:
        result["memoryBytes"] = private_memory()
    return result


def go_on_in_child() -> None:
    """Forks; the parent only waits, and ends as the child did."""
    gc.collect()
    gc.freeze()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
            os.kill(os.getpid(), os.WTERMSIG(status))
        os._exit(os.waitstatus_to_exitcode(status))


def private_memory() -> int | None:
    """Bytes that only this process holds, rounded up to 16 MiB so that packing again gives the same manifest; None
    where the system doesn't say."""
    path = Path("/proc/self/smaps_rollup")
    if not path.exists():
        return None
    fields = dict(line.split(":", 1) for line in path.read_text().splitlines()[1:])
    kib = sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))
    return -(-kib * 1024 // _MEMORY_STEP) * _MEMORY_STEP


def load_saved_model(folder: Path, *, callers: int = 1) -> Loaded:
    """As a replica does for so many requests at a time."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(callers)
    methods = saved_model_methods((folder / "saved_model.pb").read_bytes())
    model = tf.saved_model.load(str(folder))
    signatures = saved_model_signatures(model, methods)

    def call(name: str, inputs: Arrays) -> Arrays:
        specs = signatures[name].inputs
        tensors = {key: tf.constant(value, dtype=tensorflow_name(specs[key].datatype)) for key, value in inputs.items()}
        return {key: value.numpy() for key, value in model.signatures[name](**tensors).items()}

    def picture(seed: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(np.uint8)
        data: bytes = tf.io.encode_png(pixels).numpy()
        return data

    producer = {"tensorflow": importlib.metadata.version("tensorflow-cpu")} if _installed("tensorflow-cpu") else {}
    return Loaded(signatures, call, (tf.errors.OpError, ValueError, TypeError), picture, producer)


def load_tflite(path: Path) -> Loaded:
    """As a replica does for one request at a time. Raises `UserError`."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"LiteRT can't load it: {error}") from error
    signatures = tflite_signatures(interpreter)
    named = bool(interpreter.get_signature_list())

    def call(name: str, inputs: Arrays) -> Arrays:
        if named:
            return dict(interpreter.get_signature_runner(name)(**inputs))
        details = {each["name"]: each["index"] for each in interpreter.get_input_details()}
        for key, value in inputs.items():
            interpreter.resize_tensor_input(details[key], value.shape)
        interpreter.allocate_tensors()
        for key, value in inputs.items():
            interpreter.set_tensor(details[key], value)
        interpreter.invoke()
        return {each["name"]: interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()}

    producer = {"ai-edge-litert": importlib.metadata.version("ai-edge-litert")}
    return Loaded(signatures, call, (ValueError, RuntimeError, TypeError), lambda _seed: b"", producer)


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _parity(
    loaded: Loaded,
    name: str,
    image: ImageInput | None,
    request: Mapping[str, Any],
    teller: Teller,
) -> ParitySamples | None:
    signature = loaded.signatures[name]
    source = request["parityInputs"] if name == main_signature(loaded.signatures) else None
    rtol, atol = request["rtol"], request["atol"]
    if source:
        try:
            inputs = given(read_arrays(Path(source), signature), name, signature, source)
            outputs = loaded.call(name, inputs)
        except loaded.refusals as error:
            raise UserError(f"--parity-inputs: {_short(error)}") from error
    else:
        refusal = ""
        for _what, inputs in attempts(name, signature, image, loaded.picture):
            try:
                outputs = loaded.call(name, inputs)
                break
            except loaded.refusals as error:
                refusal = refusal or _short(error)
        else:
            teller.note(
                f"no parity samples for signature {name}: it refuses made-up inputs ({refusal}); give real ones with "
                "--parity-inputs"
            )
            return None
    again = loaded.call(name, inputs)
    if not all(_close(outputs[key], again[key], rtol, atol) for key in outputs):
        teller.note(f"no parity samples for signature {name}: it answers the same inputs differently each time")
        return None
    arrays = {f"input:{key}": value for key, value in inputs.items()}
    arrays |= {f"output:{key}": value for key, value in outputs.items()}
    stored = {key: _storable(value) for key, value in arrays.items()}
    if problem := next((key for key, value in stored.items() if value is None), None):
        teller.note(f"no parity samples for signature {name}: {problem} has bytes that end in a zero")
        return None
    if any(value.dtype.kind == "S" and value.size > MAX_PARITY_STRINGS for value in stored.values()):
        teller.note(f"no parity samples for signature {name}: they would have more than {MAX_PARITY_STRINGS} strings")
        return None
    folder = Path(request["into"])
    folder.mkdir(parents=True, exist_ok=True)
    written = sum(file.stat().st_size for file in folder.iterdir())
    if written + sum(value.nbytes for value in stored.values() if value is not None) > MAX_PARITY_BYTES:
        teller.note(
            f"no parity samples for signature {name}: a version's are at most {MAX_PARITY_BYTES >> 20} MiB in all"
        )
        return None
    file = f"{_file_name(name)}.npz"
    np.savez(folder / file, allow_pickle=False, **{key: value for key, value in stored.items() if value is not None})
    return ParitySamples(path=f"windlass/parity/{file}", signature=name, rtol=rtol, atol=atol)


def main_signature(signatures: Mapping[str, Signature]) -> str:
    """What a client gets that names none."""
    return DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures))


def _file_name(signature: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in signature).lstrip(".") or "_"


def read_arrays(path: Path, signature: Signature) -> dict[str, Any]:
    """Of an .npz by name; of an .npy for the one input."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--parity-inputs {path}: can't be read ({error}); np.save or np.savez writes it") from error
    if isinstance(loaded, np.ndarray):
        if len(signature.inputs) != 1:
            raise UserError(
                f"--parity-inputs {path} is one array, the model takes {sorted(signature.inputs)}: use np.savez"
            )
        return {next(iter(signature.inputs)): loaded}
    with loaded:
        return {name: loaded[name] for name in loaded.files}


def _storable(value: Any) -> Any:
    """As an .npz without pickles takes it: byte strings of fixed length, which can't end in a zero."""
    array = np.asarray(value)
    if array.dtype.kind not in "OSU":
        return array
    elements = [element.encode() if isinstance(element, str) else bytes(element) for element in array.ravel()]
    if any(element.endswith(b"\0") for element in elements):
        return None
    return np.array(elements, dtype=np.bytes_).reshape(array.shape)


def _close(one: Any, other: Any, rtol: float, atol: float) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "OSUb":
        return bool(np.array_equal(one, other))
    return np.allclose(one.astype(np.float64), other.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True)


def _warm_up(loaded: Loaded, name: str, signature: Signature, size: int, teller: Teller, tried: set[str]) -> None:
    inputs = {}
    for key, spec in signature.inputs.items():
        shape = tuple(
            (size if position == 0 else 1) if each == -1 else each
            for position, each in enumerate([-1] if spec.shape is None else spec.shape)
        )
        inputs[key] = (
            np.full(shape, b"", dtype=object)
            if spec.datatype is DataType.BYTES
            else np.zeros(shape, dtype_of(spec.datatype))
        )
    try:
        loaded.call(name, inputs)
    except loaded.refusals as error:
        if name not in tried:
            teller.note(f"signature {name} refuses zeros at batch size {size} ({_short(error)})")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "…"


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run(work)
