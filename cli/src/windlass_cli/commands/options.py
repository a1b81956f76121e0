"""Values of options, read and checked. Each raises `typer.BadParameter`, which ends with exit code 2."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import typer
from pydantic import TypeAdapter, ValidationError

from windlass_cli.packing.signatures import tensorflow_name
from windlass_contract.document import DocumentError
from windlass_contract.identifiers import ModelName, ServerName, Version
from windlass_contract.manifest import DataType, ImageInput
from windlass_contract.wording import remedy

_SPEC = re.compile(r"(?P<name>[^=\[\]]+)=(?P<datatype>[A-Za-z0-9]+)\[(?P<shape>[-0-9, ]*)\]")
_SIZE = re.compile(r"(\d{1,4})x(\d{1,4})(?:x([134]))?")


def model_name(value: str) -> str:
    """A model's name."""
    return str(_checked(value, ModelName))


def server_name(value: str | None) -> str | None:
    """A server's name."""
    return None if value is None else str(_checked(value, ServerName))


def version_number(value: int) -> int:
    """A version."""
    return int(_checked(value, Version))


def fraction(text: str) -> float:
    """A number, or a fraction as in 1/255."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is no number; write 0.0039 or 1/255") from None


def image_size(text: str) -> tuple[int, int, int]:
    """WIDTHxHEIGHT or WIDTHxHEIGHTxCHANNELS; three channels unless said."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r}: WIDTHxHEIGHTxCHANNELS is expected, as in 224x224x3 (channels: 1, 3 or 4)")
    width, height, channels = match.groups()
    return int(width), int(height), int(channels or 3)


def image_options(
    size: str | None, name: str | None, scale: str, offset: str, resampling: str, decoding: str, invert: bool
) -> dict[str, Any] | None:
    """Fields of the manifest's `image`, without `input` when no name is given."""
    if size is None:
        if name or invert or scale != "1" or offset != "0" or decoding != "full":
            raise typer.BadParameter("--image-input, --scale, --offset, --decoding and --invert go with --image")
        return None
    width, height, channels = image_size(size)
    options: dict[str, Any] = {"width": width, "height": height, "channels": channels, "resampling": resampling}
    if (factor := fraction(scale)) != 1:
        options["scale"] = factor
    if (addend := fraction(offset)) != 0:
        options["offset"] = addend
    if decoding != "full":
        options["decoding"] = decoding
    if invert:
        options["invert"] = True
    try:
        ImageInput.parse({**options, "input": name or "x"}, "--image")
    except DocumentError as error:
        raise typer.BadParameter(str(error)) from error
    return {**options, "input": name} if name else options


def classes(text: str | None) -> list[str]:
    """Names separated by commas; or a file with one per line, or a JSON list."""
    if not text:
        return []
    path = Path(text)
    if not path.is_file():
        if "," not in text:
            raise typer.BadParameter(f"{text!r} is neither a file nor a list of names separated by commas")
        return [name.strip() for name in text.split(",")]
    data = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return [line.strip() for line in data.splitlines() if line.strip()]
    try:
        names = json.loads(data)
    except ValueError as error:
        raise typer.BadParameter(f"{path} is not JSON ({error})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise typer.BadParameter(f"{path}: a JSON list of names is expected, in the order of the model's scores")
    return names


def input_specs(texts: list[str]) -> dict[str, dict[str, Any]]:
    """NAME=TYPE[SHAPE] each, to name and {dtype: TensorFlow's name, shape}."""
    specs = {}
    for text in texts:
        match = _SPEC.fullmatch(text.strip())
        sizes = [size.strip() for size in match["shape"].split(",") if size.strip()] if match else []
        known = match is not None and match["datatype"].upper() in list(DataType)
        if match is None or not known or not all(re.fullmatch("-1|[0-9]{1,9}", size) for size in sizes):
            raise typer.BadParameter(
                f"{text!r}: NAME=TYPE[SHAPE] is expected, as in 'image=UINT8[-1,28,28]'; types: "
                f"{', '.join(DataType)}; -1: any size"
            )
        datatype = DataType(match["datatype"].upper())
        specs[match["name"].strip()] = {
            "dtype": tensorflow_name(datatype),
            "shape": [int(size) for size in sizes],
        }
    return specs


def batch_sizes(text: str) -> list[int]:
    """Whole numbers separated by commas."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = [0]
    if not sizes or len(sizes) > 16 or any(not 1 <= size <= 4096 for size in sizes):
        raise typer.BadParameter(f"{text!r}: up to 16 numbers from 1 to 4096 are expected, as in 1,8,32")
    return sizes


def thread_counts(text: str) -> list[int]:
    """Whole numbers separated by commas, each once, in order."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 256 for part in parts):
        raise typer.BadParameter(f"{text!r}: numbers from 1 to 256 are expected, as in 1,2,4")
    return sorted({int(part) for part in parts})


def percentage(text: str | None) -> str | None:
    """A share, as in 95%; the sign may be left out."""
    if text is None:
        return None
    value = text if text.endswith("%") else f"{text}%"
    if not re.fullmatch(r"(100(\.0)?|[0-9]{1,2}(\.[0-9])?)%", value):
        raise typer.BadParameter(f"{text!r}: a share of 0% to 100% with at most one decimal is expected, as in 95%")
    return value


def _checked(value: Any, kind: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise typer.BadParameter(f"{value!r}: {remedy(error.errors()[0])}") from None
