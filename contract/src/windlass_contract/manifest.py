"""The manifest: `manifest.json`, written last, lists every file of one version and says what the model is.

Its digest names the artifact. It carries no time and no path of the machine that packed it.
"""

from __future__ import annotations

import itertools
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from .canonical import digest_of
from .document import Document
from .identifiers import ModelName, Version, like

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILES = 10_000
MAX_FILE_BYTES = 64 * 1024**3
MAX_DIMENSION = 2**31 - 1
OWN_FOLDER = "windlass"
"""Folder inside a version for what packing adds (parity samples): not part of the model's own files."""


class DataType(StrEnum):
    """Element types, named as in the Open Inference Protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


ELEMENT_TYPES = {
    "bool": DataType.BOOL,
    "uint8": DataType.UINT8,
    "uint16": DataType.UINT16,
    "uint32": DataType.UINT32,
    "uint64": DataType.UINT64,
    "int8": DataType.INT8,
    "int16": DataType.INT16,
    "int32": DataType.INT32,
    "int64": DataType.INT64,
    "float16": DataType.FP16,
    "bfloat16": DataType.BF16,
    "float32": DataType.FP32,
    "float64": DataType.FP64,
    "string": DataType.BYTES,
}
"""By TensorFlow's names, which are numpy's for all but strings."""


class ModelFormat(StrEnum):
    """What a replica opens; everything else is converted by `windlass pack`."""

    SAVED_MODEL = "SavedModel"
    TFLITE = "TFLite"


class TensorSpec(Document):
    """One input or output of a signature."""

    datatype: DataType
    shape: Annotated[list[Annotated[int, Field(ge=-1, le=MAX_DIMENSION)]], Field(max_length=16)] | None
    """-1: any size. None: any rank. The first dimension is the batch where it is -1."""


TensorSpecs = Annotated[dict[Annotated[str, Field(min_length=1, max_length=256)], TensorSpec], Field(max_length=256)]


class Signature(Document):
    """One callable of the model, as TensorFlow's SignatureDef."""

    inputs: TensorSpecs
    outputs: Annotated[TensorSpecs, Field(min_length=1)]
    method: Literal["predict", "classify", "regress"] = "predict"


class FileEntry(Document):
    """One file of the version, all but the manifest itself."""

    path: Annotated[str, Field(min_length=1, max_length=1024)]
    """Relative to the version's folder, POSIX, without `.`, `..`, empty or hidden-by-case parts."""
    size: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES, strict=True)]
    """Bytes."""
    sha256: Annotated[str, like(r"^[0-9a-f]{64}$", "write 64 hexadecimal digits in small letters")]

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        if (
            path.startswith("/")
            or "\\" in path
            or any(ord(letter) < 32 or ord(letter) == 127 for letter in path)
            or any(part in {"", ".", ".."} for part in path.split("/"))
            or str(PurePosixPath(path)) != path
        ):
            raise ValueError("a path inside the version's folder is expected, without '.', '..' and backslashes")
        if path == MANIFEST_NAME:
            raise ValueError("the manifest doesn't list itself")
        return path


class ImageInput(Document):
    """How `POST /predict` makes a tensor of an image: decode, convert, resize, then `pixel * scale + offset`."""

    input: str
    """Name of the input in `signature`."""
    signature: str = "serving_default"
    width: Annotated[int, Field(ge=1, le=8192)]
    height: Annotated[int, Field(ge=1, le=8192)]
    channels: Literal[1, 3, 4] = 3
    resampling: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    decoding: Literal["full", "scaled"] = "full"
    """`scaled`: a JPEG is decoded at an eighth, a quarter or half of its size, the smallest that isn't smaller than the
    input, and resized from there. Faster, and the pixels are others than the training saw: try what it does to answers.
    """
    scale: float = 1.0
    offset: float = 0.0
    invert: bool = False
    """Dark on light becomes light on dark, before scale and offset."""


class ParitySamples(Document):
    """Inputs and the answers they had where the version was packed: they show that it computes the same here."""

    path: str
    """An .npz inside the version with arrays named `input:<name>` and `output:<name>`, batched along axis 0."""
    signature: str = "serving_default"
    rtol: Annotated[float, Field(ge=0)] = 1e-3
    atol: Annotated[float, Field(ge=0)] = 1e-4


class Manifest(Document):
    """One version of one model: identity, files, and how to run and try it."""

    api_version: Literal["windlass.dev/v1alpha1"] = "windlass.dev/v1alpha1"
    kind: Literal["Manifest"] = "Manifest"
    model: ModelName
    version: Version
    format: ModelFormat
    files: Annotated[list[FileEntry], Field(min_length=1, max_length=MAX_FILES)]
    signatures: Annotated[dict[Annotated[str, Field(min_length=1, max_length=256)], Signature], Field(min_length=1)]
    warmup_batch_sizes: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(max_length=16)] = [1]
    """Each signature is run once with each of these before it may answer."""
    parity: Annotated[list[ParitySamples], Field(max_length=64)] = []
    image: ImageInput | None = None
    classes: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=100_000)] = []
    """Names of the classes, by index of the scores."""
    memory_bytes: Annotated[int, Field(ge=0)] | None = None
    """Private memory of a process with this version loaded and warm, measured when packed."""
    producer: dict[str, str] = {}
    """Names and versions of what packed it."""

    @field_validator("files")
    @classmethod
    def _sorted_and_single(cls, files: list[FileEntry]) -> list[FileEntry]:
        paths = [entry.path for entry in files]
        if paths != sorted(set(paths)):
            raise ValueError("files are listed once each, sorted by path")
        for path, following in itertools.pairwise(paths):
            if following.startswith(path + "/"):
                raise ValueError(f"{path!r} can't be a file and a folder")
        return files

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        listed = {entry.path for entry in self.files}
        for samples in self.parity:
            if samples.path not in listed:
                raise ValueError(f"parity: {samples.path!r} is not among the files")
            if samples.signature not in self.signatures:
                raise ValueError(f"parity: there is no signature {samples.signature!r}")
        if self.image is not None:
            signature = self.signatures.get(self.image.signature)
            if signature is None or self.image.input not in signature.inputs:
                raise ValueError(f"image: signature {self.image.signature!r} has no input {self.image.input!r}")
        return self

    def digest(self) -> str:
        """Names the artifact."""
        return digest_of(self.to_dict())

    def content_digest(self) -> str:
        """Over the model's own files (paths, sizes, sums), whatever was packed around them.

        Quarantine goes by it, so that packing the same files anew is no way round.
        """
        return content_digest(self.files)


def content_digest(files: list[FileEntry]) -> str:
    """See `Manifest.content_digest`."""
    return digest_of(
        [[entry.path, entry.size, entry.sha256] for entry in files if not entry.path.startswith(f"{OWN_FOLDER}/")]
    )
