"""Reading parity samples: an `.npz` of plain arrays, bounded before anything is allocated.

numpy's own reader believes the shape in an array's header before it looks at the data.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from windlass_contract.manifest import MAX_DIMENSION, DataType, Signature, TensorSpec
from windlass_server.tensors import NUMPY_TYPE, Tensor, element_count

MAX_PARITY_BYTES = 64 * 1024 * 1024
"""Of the arrays of one version; `windlass pack` writes no more."""
_MAX_ARRAYS = 512
_MAX_ELEMENTS = 1_000_000
"""Of an array whose elements take no place in the file, or become Python objects."""
_MAX_HEADER = 1024
_MAX_DIMENSIONS = 16
_END = struct.Struct("<4s4H2LH")
"""The end of a zip file: how many members it lists, in how many bytes."""
_MAX_MEMBER_ENTRY = 1024
_MAGIC = {b"\x93NUMPY\x01\x00": struct.Struct("<H"), b"\x93NUMPY\x02\x00": struct.Struct("<I")}
_HEADER = re.compile(
    rb"\{'descr': '([<|=][a-zA-Z]\d{0,9})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,19}, ?)*(?:\d{1,19})?)\), \} *\n?"
)
"""As numpy writes it. Its own reader takes any Python literal, and time and memory with it."""


@dataclass(frozen=True)
class ParityArrays:
    """Inputs and the answers they had where the version was packed."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Of all of them."""
        return sum(array.nbytes for array in (*self.inputs.values(), *self.outputs.values()))


def read_parity(data: bytes, signature: Signature, most: int = MAX_PARITY_BYTES) -> ParityArrays:
    """Reads an `.npz` file's bytes and checks the arrays, of `most` bytes together, against the signature. Raises
    `ValueError` (what is wrong)."""
    try:
        _check_end(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > _MAX_ARRAYS:
                raise ValueError(f"it holds {len(members)} arrays; at most {_MAX_ARRAYS} are read")
            if sum(member.file_size for member in members) > most + _MAX_HEADER * len(members):
                raise ValueError(
                    f"a version's parity samples may have {MAX_PARITY_BYTES} bytes; with it they have more"
                )
            arrays = {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in members}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error, struct.error) as error:
        raise ValueError(f"it is no .npz file: {error}") from error
    found = ParityArrays({}, {})
    for key, array in arrays.items():
        kind, _, name = key.partition(":")
        specs, into = {
            "input": (signature.inputs, found.inputs),
            "output": (signature.outputs, found.outputs),
        }.get(kind, ({}, {}))
        if name not in specs:
            raise ValueError(f"there is an array {key!r}; expected are input:<name> and output:<name> of the signature")
        into[name] = _of_type(array, specs[name], key)
    if found.inputs.keys() != signature.inputs.keys():
        raise ValueError(f"it has the inputs {sorted(found.inputs)}, the signature's are {sorted(signature.inputs)}")
    if not found.outputs:
        raise ValueError("it has no output:<name>, so there is nothing to compare with")
    return found


def _check_end(data: bytes) -> None:
    """What the zip file lists is bounded before it is read: Python makes an object of each entry."""
    mark, _, _, _, _, size, _, comment = _END.unpack(data[-_END.size :])
    if mark != b"PK\x05\x06" or comment or data[-_END.size - 20 :].startswith(b"PK\x06\x07"):
        raise ValueError("it is no .npz file as numpy writes it")
    if size > _MAX_ARRAYS * _MAX_MEMBER_ENTRY:
        raise ValueError(f"it lists more than {_MAX_ARRAYS} arrays")


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise ValueError(f"{member.filename} is compressed in a way that isn't read; use numpy.savez")
    with archive.open(member) as file:
        data = file.read(member.file_size)
    length = _MAGIC.get(data[:8])
    if length is None:
        raise ValueError(f"{member.filename} is of an unknown format")
    (size,) = length.unpack_from(data, 8)
    start = 8 + length.size + size
    header = _HEADER.fullmatch(data[8 + length.size : start]) if size <= _MAX_HEADER else None
    if header is None:
        raise ValueError(f"{member.filename} holds no plain array of numbers or byte strings")
    dtype = _dtype(header[1].decode(), member.filename)
    shape = tuple(int(each) for each in header[3].replace(b" ", b"").split(b",") if each)
    body = memoryview(data)[start:]
    fits = len(shape) <= _MAX_DIMENSIONS and max(shape, default=0) <= MAX_DIMENSION
    if not fits or element_count(shape) * dtype.itemsize != len(body):
        raise ValueError(f"{member.filename} has {len(body)} bytes, its header says {list(shape)} of {dtype}")
    if (dtype.itemsize == 0 or dtype.kind in "SU") and element_count(shape) > _MAX_ELEMENTS:
        raise ValueError(f"{member.filename} has more than {_MAX_ELEMENTS} byte strings")
    if not body:
        return np.zeros(shape, dtype)
    return np.frombuffer(body, dtype).reshape(shape, order="F" if header[2] == b"True" else "C")


def _dtype(name: str, member: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{member} holds elements of an unknown kind: {name}") from error
    if dtype.hasobject:
        raise ValueError(f"{member} holds Python objects; they are never read")
    return dtype


def _of_type(array: Tensor, spec: TensorSpec, key: str) -> Tensor:
    wanted = NUMPY_TYPE[spec.datatype]
    if spec.datatype is DataType.BYTES:
        if array.dtype.kind not in "SU":
            raise ValueError(f"{key} is of {array.dtype}, expected are byte strings")
        objects = np.empty(array.shape, dtype=object)
        for index, element in enumerate(array.flat):
            objects.flat[index] = element.encode() if isinstance(element, str) else bytes(element)
        return objects
    if array.dtype.kind == "V" and array.dtype.itemsize == wanted.itemsize:
        return array.view(wanted)  # an .npz has no name for bfloat16
    if array.dtype != wanted:
        raise ValueError(f"{key} is of {array.dtype}, the signature's is {wanted}")
    return array
