"""Packing a model, and adopting a version that is there: what to do in which order."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from windlass_cli.errors import UserError
from windlass_cli.terminal import Progress, size
from windlass_contract.artifact import ArtifactError, list_files
from windlass_contract.document import DocumentError
from windlass_contract.manifest import MANIFEST_NAME, OWN_FOLDER, Manifest, ModelFormat
from windlass_contract.operations import describe, forbidden_operations

from .folder import copy_file, copy_tree, refuse_existing, staged, sync, write_file
from .helper import require, run_program

SAVED_MODEL_FILE = "saved_model.pb"
TFLITE_FILE = "model.tflite"
KERAS_SUFFIXES = {".keras", ".h5", ".hdf5"}


@dataclass(frozen=True)
class Description:
    """What a person says of a model, besides its files."""

    image: dict[str, Any] | None = None
    """Fields of the manifest's `image`; `input` may be missing."""
    classes: list[str] = field(default_factory=list)
    warmup_batch_sizes: list[int] = field(default_factory=lambda: [1])
    parity: bool = True
    parity_inputs: Path | None = None
    rtol: float = 1e-3
    atol: float = 1e-4
    measure: bool = True


@dataclass(frozen=True)
class Conversion:
    """How a Keras model becomes a SavedModel, and what is put in front of it."""

    preprocess: str = ""
    """`file.py:function`; empty: nothing."""
    input_specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name to {dtype, shape}."""
    modules: list[Path] = field(default_factory=list)
    allow_code: bool = False

    @property
    def asked(self) -> bool:
        """Whether the model can't be taken as it is."""
        return bool(self.preprocess or self.input_specs or self.modules or self.allow_code)


@dataclass(frozen=True)
class Packed:
    """A version that is complete."""

    folder: Path
    manifest: Manifest
    digest: str
    notes: list[str]


def pack(
    source: Path,
    output: Path,
    model: str,
    version: int,
    description: Description,
    conversion: Conversion,
    progress: Progress,
) -> Packed:
    """Makes `<output>/<model>/<version>/`. Raises `UserError`; then, and when interrupted, nothing is left behind."""
    kind = source_kind(source)
    if kind == "tflite" and conversion.asked:
        raise UserError(
            "--preprocess, --input-spec, --module and --allow-code are for Keras models and SavedModels; a .tflite is "
            "packed as it is"
        )
    if kind == "saved_model" and conversion.asked and not conversion.preprocess:
        raise UserError("--input-spec, --module and --allow-code are for Keras models; a SavedModel is packed as it is")
    _require_runtime(kind, source)
    target = output / model / str(version)
    refuse_existing(target)
    with staged(target) as folder:
        copied = _Amount(progress)
        if kind == "tflite":
            progress.step(f"copying {source.name}")
            copy_file(source, folder / TFLITE_FILE, copied)
        elif kind == "saved_model" and not conversion.asked:
            progress.step(f"copying {source}")
            copy_tree(source, folder, copied)
        else:
            _export(source, folder, conversion, progress)
        manifest_format = ModelFormat.TFLITE if kind == "tflite" else ModelFormat.SAVED_MODEL
        manifest, notes = _describe(folder, folder, manifest_format, model, version, description, progress)
        notes += _what_replicas_refuse(folder, manifest_format)
        progress.step("writing to disk")
        sync(folder)
        write_file(folder / MANIFEST_NAME, manifest_text(manifest))
    return Packed(target, manifest, manifest.digest(), notes)


def adopt(folder: Path, model: str, version: int, description: Description, progress: Progress) -> Packed:
    """Writes the manifest of a version that is there; only that and `windlass/` are added. Raises `UserError`; then,
    and when interrupted, what was added is removed."""
    manifest_format = version_format(folder)
    if manifest_format is None:
        raise UserError(
            f"{folder} holds neither {SAVED_MODEL_FILE} nor {TFLITE_FILE}; is it the folder of one version?"
        )
    if (folder / MANIFEST_NAME).exists():
        raise UserError(f"{folder} has a {MANIFEST_NAME} already; `windlass verify {folder}` checks it")
    _require_runtime("tflite" if manifest_format is ModelFormat.TFLITE else "saved_model", folder)
    own = folder / OWN_FOLDER
    if own.exists():
        # Without a manifest it is what an interrupted adoption left; anything else in it is not ours to remove.
        if unknown := sorted(str(path) for path in own.rglob("*") if path.is_file() and path.suffix != ".npz"):
            raise UserError(f"{unknown[0]} is in the way: {own} is for what windlass adds; move it")
        shutil.rmtree(own)
    done = False
    try:
        manifest, notes = _describe(folder, folder, manifest_format, model, version, description, progress)
        notes += _what_replicas_refuse(folder, manifest_format)
        progress.step("writing the manifest")
        if own.exists():
            sync(own)
        write_file(folder / MANIFEST_NAME, manifest_text(manifest))
        done = True
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror}; windlass adopt adds files to it") from error
    finally:
        if not done:
            shutil.rmtree(own, ignore_errors=True)
    return Packed(folder, manifest, manifest.digest(), notes)


def manifest_text(manifest: Manifest) -> str:
    """As it is written: for people to read, too."""
    return json.dumps(manifest.to_dict(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def source_kind(source: Path) -> str:
    """`saved_model`, `keras` or `tflite`. Raises `UserError`."""
    if source.is_dir():
        if (source / SAVED_MODEL_FILE).is_file():
            return "saved_model"
        if (source / "saved_model.pbtxt").is_file():
            raise UserError(f"{source} holds a SavedModel as text (saved_model.pbtxt); save it in binary form")
        raise UserError(f"{source} is no SavedModel: there is no {SAVED_MODEL_FILE} in it")
    if not source.exists():
        raise UserError(f"there is no {source}; give a SavedModel folder, a .keras, .h5 or .tflite file")
    if source.suffix in KERAS_SUFFIXES:
        return "keras"
    if source.suffix == ".tflite":
        return "tflite"
    raise UserError(f"{source}: a SavedModel folder, or a .keras, .h5 or .tflite file is expected")


def version_format(folder: Path) -> ModelFormat | None:
    """What the folder of a version holds; None: no model."""
    if (folder / SAVED_MODEL_FILE).is_file():
        return ModelFormat.SAVED_MODEL
    return ModelFormat.TFLITE if (folder / TFLITE_FILE).is_file() else None


class _Amount:
    """Adds bytes up and shows them."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bytes = 0

    def __call__(self, count: int) -> None:
        self._bytes += count
        self._progress.amount(size(self._bytes))


def _require_runtime(kind: str, source: Path) -> None:
    if kind == "tflite":
        require("ai_edge_litert", f"packing {source}")
    else:
        require("tensorflow", f"packing {source}")


def _export(source: Path, folder: Path, conversion: Conversion, progress: Progress) -> None:
    if conversion.preprocess and not conversion.preprocess.rpartition(":")[0]:
        raise UserError(f"--preprocess {conversion.preprocess}: FILE.py:FUNCTION is expected, e.g. prepare.py:prepare")
    request = {
        "source": str(source),
        "target": str(folder),
        "preprocess": conversion.preprocess,
        "inputSpecs": conversion.input_specs,
        "modules": [str(module) for module in conversion.modules],
        "allowCode": conversion.allow_code,
    }
    run_program("export", request, progress, "making a SavedModel")


def _describe(
    folder: Path,
    into: Path,
    manifest_format: ModelFormat,
    model: str,
    version: int,
    description: Description,
    progress: Progress,
) -> tuple[Manifest, list[str]]:
    """The manifest, once parity samples are in `into`."""
    request = {
        "folder": str(folder),
        "format": manifest_format.value,
        "parity": description.parity,
        "parityInputs": None if description.parity_inputs is None else str(description.parity_inputs),
        "image": description.image,
        "warmupBatchSizes": description.warmup_batch_sizes,
        "measure": description.measure,
        "into": str(into / OWN_FOLDER / "parity"),
        "rtol": description.rtol,
        "atol": description.atol,
    }
    told = run_program("probe", request, progress, "trying it")
    progress.step("hashing its files")
    producer = {"windlass": installed_version("windlass-cli"), **told.result["producer"]}
    fields: dict[str, Any] = {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "Manifest",
        "model": model,
        "version": version,
        "format": manifest_format.value,
        "files": [entry.to_dict() for entry in _files(folder, progress)],
        "signatures": told.result["signatures"],
        "warmupBatchSizes": description.warmup_batch_sizes,
        "parity": told.result["parity"],
        "classes": description.classes,
        "producer": producer,
    }
    for key in ("image", "memoryBytes"):
        if told.result.get(key) is not None:
            fields[key] = told.result[key]
    try:
        return Manifest.parse(fields, "the manifest"), told.notes
    except DocumentError as error:
        raise UserError(str(error)) from error


def _what_replicas_refuse(folder: Path, manifest_format: ModelFormat) -> list[str]:
    """A note when the model uses operations that replicas don't run."""
    try:
        found = forbidden_operations(folder, manifest_format)
    except ValueError as error:
        raise UserError(f"the operations of the model can't be read: {error}") from error
    return [f"replicas will refuse this version: {describe(found)}"] if found else []


def _files(folder: Path, progress: Progress) -> list[Any]:
    try:
        return list_files(folder, _Amount(progress))
    except ArtifactError as error:
        raise UserError(str(error)) from error
