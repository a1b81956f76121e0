"""Complete versions of small real models: `<models>/<model>/<version>/` with the model's files and its manifest.

Each function returns the version's folder. The first use of a model builds it with TensorFlow, in a process of its
own; later ones copy it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from windlass_contract.artifact import list_files
from windlass_contract.manifest import (
    MANIFEST_NAME,
    OWN_FOLDER,
    DataType,
    ImageInput,
    Manifest,
    ModelFormat,
    ParitySamples,
    Signature,
    TensorSpec,
)

from .store import built

MODEL_TYPES: dict[DataType, str] = {
    DataType.BOOL: "bool",
    DataType.UINT8: "uint8",
    DataType.UINT16: "uint16",
    DataType.UINT32: "uint32",
    DataType.UINT64: "uint64",
    DataType.INT8: "int8",
    DataType.INT16: "int16",
    DataType.INT32: "int32",
    DataType.INT64: "int64",
    DataType.FP16: "float16",
    DataType.BF16: "bfloat16",
    DataType.FP32: "float32",
    DataType.FP64: "float64",
    DataType.BYTES: "string",
}
"""Element types that TensorFlow runs, with its names for them: all of the Open Inference Protocol's."""

Arrays = Mapping[str, Any]


def spec(datatype: DataType, shape: Sequence[int] | None) -> TensorSpec:
    """Shorthand."""
    return TensorSpec(datatype=datatype, shape=None if shape is None else list(shape))


_COLUMN = spec(DataType.FP32, [-1, 1])
_X_TO_Y = Signature(inputs={"x": _COLUMN}, outputs={"y": _COLUMN})
_EXAMPLES = spec(DataType.BYTES, [-1])
AFFINE_SIGNATURES = {
    "serving_default": _X_TO_Y,
    "regress_x_to_y": Signature(inputs={"inputs": _EXAMPLES}, outputs={"outputs": _COLUMN}, method="regress"),
    "classify_x_to_y": Signature(inputs={"inputs": _EXAMPLES}, outputs={"scores": _COLUMN}, method="classify"),
}


def write_manifest(
    folder: Path,
    model: str,
    version: int,
    signatures: Mapping[str, Signature],
    *,
    format: ModelFormat = ModelFormat.SAVED_MODEL,  # noqa: A002 - the manifest's word
    parity: Mapping[str, tuple[Arrays, Arrays]] | None = None,
    warmup_batch_sizes: Sequence[int] = (1,),
    classes: Sequence[str] = (),
    image: ImageInput | None = None,
    **fields: Any,
) -> Manifest:
    """Lists what is in the folder and writes its manifest. `parity`: signature to (inputs, outputs), packed too."""
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    samples = []
    for name, (inputs, outputs) in (parity or {}).items():
        path = f"{OWN_FOLDER}/parity/{name}.npz"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"input:{key}": value for key, value in inputs.items()}
        arrays |= {f"output:{key}": value for key, value in outputs.items()}
        np.savez(folder / path, allow_pickle=False, **arrays)
        samples.append(ParitySamples(path=path, signature=name))
    given: dict[str, Any] = {"parity": samples} if samples else {}
    if image is not None:
        given["image"] = image
    if classes:
        given["classes"] = list(classes)
    manifest = Manifest(
        model=model,
        version=version,
        format=format,
        files=list_files(folder),
        signatures=dict(signatures),
        warmup_batch_sizes=list(warmup_batch_sizes),
        **given,
        **fields,
    )
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest.to_dict(), indent=1))
    return manifest


def affine(
    models: Path,
    model: str,
    version: int,
    scale: float,
    offset: float,
    *,
    ballast_mb: int = 0,
    load_seconds: float = 0,
    **manifest: Any,
) -> Path:
    """SavedModel y = scale * x + offset of `x` FP32 [-1, 1], with `regress_x_to_y` and `classify_x_to_y` that take
    serialized tf.Examples with a feature x. `ballast_mb`: MiB of weights it carries besides; `load_seconds`: how long
    its load takes at least."""
    folder = _copy(
        models,
        model,
        version,
        "affine",
        scale=float(scale),
        offset=float(offset),
        ballast_mb=ballast_mb,
        load_seconds=load_seconds,
    )
    write_manifest(folder, model, version, manifest.pop("signatures", AFFINE_SIGNATURES), **manifest)
    return folder


def half_plus_two(models: Path, model: str = "half_plus_two", version: int = 1, **manifest: Any) -> Path:
    """TensorFlow Serving's half_plus_two."""
    return affine(models, model, version, 0.5, 2, **manifest)


def half_plus_three(models: Path, model: str = "half_plus_three", version: int = 1, **manifest: Any) -> Path:
    """TensorFlow Serving's half_plus_three."""
    return affine(models, model, version, 0.5, 3, **manifest)


def affine_v1(models: Path, model: str, version: int, scale: float, offset: float, **manifest: Any) -> Path:
    """The same function in TensorFlow 1's SavedModel format, `serving_default` only."""
    folder = _copy(models, model, version, "affine_v1", scale=float(scale), offset=float(offset))
    write_manifest(folder, model, version, {"serving_default": _X_TO_Y}, **manifest)
    return folder


def affine_tflite(
    models: Path, model: str, version: int, scale: float, offset: float, *, signatures: bool = True, **manifest: Any
) -> Path:
    """The same function as a TFLite file. Without signatures its tensors keep the names they have in the graph."""
    folder = _copy(
        models, model, version, "affine_tflite", scale=float(scale), offset=float(offset), signatures=signatures
    )
    signature = _X_TO_Y if signatures else Signature(inputs={"x": _COLUMN}, outputs={"Identity": _COLUMN})
    manifest.setdefault("format", ModelFormat.TFLITE)
    write_manifest(folder, model, version, {"serving_default": signature}, **manifest)
    return folder


def identity(models: Path, model: str = "identity", version: int = 1, **manifest: Any) -> Path:
    """Gives back what it gets. `serving_default` has an input and output [-1, -1] of each element type, named by it in
    small letters (`fp16`, `bytes`), and `raw_bytes`; `only_<name>` has one input `x` and one output `y`; `any_rank` the
    same of FP32 without a rank."""
    types = {datatype.value.lower(): datatype for datatype in MODEL_TYPES} | {"raw_bytes": DataType.BYTES}
    folder = _copy(
        models, model, version, "identity", types={name: MODEL_TYPES[datatype] for name, datatype in types.items()}
    )
    square = [-1, -1]
    every = {name: spec(datatype, square) for name, datatype in types.items()}
    signatures = {"serving_default": Signature(inputs=every, outputs=every)}
    for name, datatype in types.items():
        one = spec(datatype, square)
        signatures[f"only_{name}"] = Signature(inputs={"x": one}, outputs={"y": one})
    unranked = spec(DataType.FP32, None)
    signatures["any_rank"] = Signature(inputs={"x": unranked}, outputs={"y": unranked})
    write_manifest(folder, model, version, signatures, **manifest)
    return folder


def slow(models: Path, model: str, version: int, **manifest: Any) -> Path:
    """y = x of FP32 [-1, 1], after as many seconds as the largest x says."""
    folder = _copy(models, model, version, "slow")
    write_manifest(folder, model, version, {"serving_default": _X_TO_Y}, **manifest)
    return folder


def crashing_at_load(models: Path, model: str, version: int, **manifest: Any) -> Path:
    """Its worker dies of SIGABRT while it loads."""
    folder = _copy(models, model, version, "crashing", at_load=True)
    write_manifest(folder, model, version, {"serving_default": _X_TO_Y}, **manifest)
    return folder


def crashing_on_request(models: Path, model: str, version: int, **manifest: Any) -> Path:
    """y = x of FP32 [-1, 1]; its worker dies of SIGABRT on an x above 1000."""
    folder = _copy(models, model, version, "crashing", at_load=False)
    write_manifest(folder, model, version, {"serving_default": _X_TO_Y}, **manifest)
    return folder


def hungry(models: Path, model: str, version: int, *, mib: int, at_load: bool, after: int = 0, **manifest: Any) -> Path:
    """y = x of FP32 [-1, 1]; its worker takes `mib` MiB at load, or for each request, warm-up included, but the first
    `after` ones."""
    folder = _copy(models, model, version, "hungry", mib=mib, at_load=at_load, after=after)
    write_manifest(folder, model, version, {"serving_default": _X_TO_Y}, **manifest)
    return folder


def counting(models: Path, model: str, version: int, **manifest: Any) -> Path:
    """y = x of FP32 [-1, 1]; fills a table of a gigabyte while it loads."""
    folder = _copy(models, model, version, "counting")
    write_manifest(folder, model, version, {"serving_default": _X_TO_Y}, **manifest)
    return folder


def rowwise(models: Path, model: str, version: int, kind: str, **manifest: Any) -> Path:
    """`x` FP32 [-1, 4] to `y` FP32 [-1, 4], each in its way: `dense`, row by row; `centred`, less the mean of all rows;
    `ranked`, times a row's place; `branching` on the largest number of all; `counting` its runs; `dropping` numbers at
    random."""
    folder = _copy(models, model, version, "rowwise", how=kind)
    four = spec(DataType.FP32, [-1, 4])
    write_manifest(
        folder, model, version, {"serving_default": Signature(inputs={"x": four}, outputs={"y": four})}, **manifest
    )
    return folder


def deep(models: Path, model: str, version: int, kind: str, **manifest: Any) -> Path:
    """`x` FP32 [-1, 4] to `y` FP32 [-1, 4] by twenty layers, each with a variable, and then: `plain`, nothing;
    `branching`, `counting` as `rowwise`; `looking up` numbers in a table."""
    folder = _copy(models, model, version, "deep", how=kind)
    four = spec(DataType.FP32, [-1, 4])
    write_manifest(
        folder, model, version, {"serving_default": Signature(inputs={"x": four}, outputs={"y": four})}, **manifest
    )
    return folder


def named(models: Path, model: str, version: int, **manifest: Any) -> Path:
    """Inputs `z`, `a`, `m` FP32 [-1, 1] to outputs `second` = 10 a, `first` = z and `third` = 100 m, in no order."""
    folder = _copy(models, model, version, "named")
    signature = Signature(
        inputs=dict.fromkeys(("z", "a", "m"), _COLUMN), outputs=dict.fromkeys(("second", "first", "third"), _COLUMN)
    )
    write_manifest(folder, model, version, {"serving_default": signature}, **manifest)
    return folder


def hostile(
    models: Path, model: str, version: int, does: str, *, at_load: bool = False, argument: str = "", **manifest: Any
) -> Path:
    """y = x of FP32 [-1, 1]; `does` what a model has no business with: reads_file, writes_file, opens_connection (their
    `argument`: a path, an address), runs_python. Output `seen` BYTES [1] tells of it."""
    folder = _copy(models, model, version, "hostile", does=does, at_load=at_load, argument=argument)
    outputs = {"y": _COLUMN, "seen": spec(DataType.BYTES, [1])}
    write_manifest(
        folder, model, version, {"serving_default": Signature(inputs={"x": _COLUMN}, outputs=outputs)}, **manifest
    )
    return folder


def misbehaving(models: Path, model: str, version: int, how: str, **manifest: Any) -> Path:
    """y = x of FP32 [-1, 1]; on an x above 1000 it spins (as many ms), sleeps (for ever), answers nan or a gigabyte; or
    it crashes on every 50th request, warm-up's included."""
    folder = _copy(models, model, version, "misbehaving", how=how)
    write_manifest(folder, model, version, {"serving_default": _X_TO_Y}, **manifest)
    return folder


def python_layer(models: Path, model: str, version: int, marker: Path, **manifest: Any) -> Path:
    """`model.keras` and `model.h5` whose Python code writes the file `marker`, listed as if they were a SavedModel."""
    folder = _copy(models, model, version, "python_layer", marker=str(marker))
    write_manifest(folder, model, version, {"serving_default": _X_TO_Y}, **manifest)
    return folder


def refusing(models: Path, model: str, version: int, **manifest: Any) -> Path:
    """y = x of FP32 [-1, 1]; refuses zeros with InvalidArgument, at warm-up too."""
    folder = _copy(models, model, version, "refusing")
    write_manifest(folder, model, version, {"serving_default": _X_TO_Y}, **manifest)
    return folder


def unloadable(models: Path, model: str, version: int, **manifest: Any) -> Path:
    """half_plus_two with its weights cut off, listed like that: the files verify, the load fails."""
    folder = _copy(models, model, version, "affine", scale=0.5, offset=2.0, ballast_mb=0, load_seconds=0)
    weights = folder / "variables" / "variables.data-00000-of-00001"
    weights.write_bytes(weights.read_bytes()[:3])
    write_manifest(folder, model, version, AFFINE_SIGNATURES, **manifest)
    return folder


def image_decoder(models: Path, model: str, version: int, **manifest: Any) -> Path:
    """`image_bytes` BYTES [-1], PNG files, to `means` FP32 [-1, 3]."""
    folder = _copy(models, model, version, "image_decoder")
    signature = Signature(
        inputs={"image_bytes": spec(DataType.BYTES, [-1])}, outputs={"means": spec(DataType.FP32, [-1, 3])}
    )
    write_manifest(folder, model, version, {"serving_default": signature}, **manifest)
    return folder


def scorer(models: Path, model: str, version: int, weights: Sequence[Sequence[float]], **manifest: Any) -> Path:
    """Softmax of x @ weights (features by classes): `x` FP32 [-1, features] to `scores` FP32 [-1, classes]."""
    rows = [[float(weight) for weight in row] for row in weights]
    folder = _copy(models, model, version, "scorer", weights=rows)
    signature = Signature(
        inputs={"x": spec(DataType.FP32, [-1, len(rows)])}, outputs={"scores": spec(DataType.FP32, [-1, len(rows[0])])}
    )
    write_manifest(folder, model, version, {"serving_default": signature}, **manifest)
    return folder


def network(models: Path, model: str, version: int, seed: int, **manifest: Any) -> Path:
    """A MobileNetV2 with random weights: `x` UINT8 [-1, 96, 96, 3] to `scores` FP32 [-1, 10]."""
    folder = _copy(models, model, version, "network", seed=seed)
    signature = Signature(
        inputs={"x": spec(DataType.UINT8, [-1, 96, 96, 3])}, outputs={"scores": spec(DataType.FP32, [-1, 10])}
    )
    write_manifest(folder, model, version, {"serving_default": signature}, **manifest)
    return folder


def _copy(models: Path, model: str, version: int, kind: str, **parameters: Any) -> Path:
    folder = models / model / str(version)
    shutil.copytree(built(kind, **parameters), folder)
    return folder
