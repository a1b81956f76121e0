"""`--image` and what goes with it: how `POST /predict` makes a tensor of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windlass_cli.errors import UserError
from windlass_contract.manifest import ImageInput, Signature

from .signatures import DEFAULT_SIGNATURE


def image_input(options: Mapping[str, Any] | None, signatures: Mapping[str, Signature]) -> ImageInput | None:
    """The manifest's `image` from the options (its fields; `input` may be left out). Raises `UserError` when no input
    of the model takes such an image."""
    if options is None:
        return None
    signature = options.get("signature", DEFAULT_SIGNATURE)
    if signature not in signatures:
        raise UserError(f"--image: there is no signature {signature!r}; the model has {sorted(signatures)}")
    inputs = signatures[signature].inputs
    wanted = [options["height"], options["width"], options["channels"]]
    name = options.get("input")
    if name is None:
        fitting = [key for key, spec in inputs.items() if _fits(spec.shape, wanted)]
        if len(fitting) != 1:
            shapes = ", ".join(f"{key} {spec.datatype.value}{spec.shape}" for key, spec in inputs.items())
            size = f"{options['width']}x{options['height']}x{options['channels']}"
            raise UserError(
                f"--image {size}: {'no' if not fitting else 'more than one'} input takes such an image "
                f"(inputs: {shapes}); correct the size, or name the input with --image-input"
            )
        name = fitting[0]
    elif name not in inputs:
        raise UserError(f"--image-input: there is no input {name!r}; signature {signature!r} has {sorted(inputs)}")
    elif not _fits(inputs[name].shape, wanted):
        raise UserError(f"--image: input {name!r} has shape {inputs[name].shape}, not [-1, height, width, channels]")
    return ImageInput.model_validate({**options, "input": name, "signature": signature})


def _fits(shape: list[int] | None, wanted: list[int]) -> bool:
    """[batch, height, width, channels], or without channels where there is one."""
    if shape is None or len(shape) not in {3, 4}:
        return False
    if len(shape) == 3:
        return wanted[2] == 1 and all(found in {-1, size} for found, size in zip(shape[1:], wanted, strict=False))
    return all(found in {-1, size} for found, size in zip(shape[1:], wanted, strict=True))
