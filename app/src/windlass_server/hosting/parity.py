"""Reading parity samples: an `.npz` of plain arrays, bounded before anything is allocated.

numpy's own reader believes the shape in an array's header before it looks at the data.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from windlass_contract.manifest import DataType, Signature, TensorSpec
from windlass_server.tensors import NUMPY_TYPE, Tensor, element_count

MAX_PARITY_BYTES = 256 * 1024 * 1024
_MAX_ARRAYS = 512
_MAX_HEADER = 64 * 1024


@dataclass(frozen=True)
class ParityArrays:
    """Inputs and the answers they had where the version was packed."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def read_parity(path: Path, signature: Signature) -> ParityArrays:
    """Reads and checks the arrays against the signature. Raises `ValueError` (what is wrong), `OSError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MAX_ARRAYS:
                raise ValueError(f"it holds {len(members)} arrays; at most {_MAX_ARRAYS} are read")
            if sum(member.file_size for member in members) > MAX_PARITY_BYTES:
                raise ValueError(f"its arrays have more than {MAX_PARITY_BYTES} bytes")
            arrays = {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in members}
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
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


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    with archive.open(member) as file:
        data = file.read(member.file_size)
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header: Any = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
        version
    )
    if read_header is None:
        raise ValueError(f"{member.filename} is of an unknown format")
    shape, fortran, dtype = read_header(stream, max_header_size=_MAX_HEADER)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects; they are never read")
    body = memoryview(data)[stream.tell() :]
    if element_count(shape) * dtype.itemsize != len(body):
        raise ValueError(f"{member.filename} has {len(body)} bytes, its header says {shape} of {dtype}")
    if dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    array = np.frombuffer(body, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


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
