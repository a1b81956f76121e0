"""How much of what a client sends is read: each bound is checked before memory is spent on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Beyond these a request is answered 413 (sizes) or 400 (shape and depth)."""

    max_body_bytes: int = 64 * 1024 * 1024
    """Of a request's body, compressed and decompressed."""
    max_json_bytes: int = 64 * 1024 * 1024
    """Of the JSON in it; binary tensors don't count."""
    max_json_depth: int = 32
    """Nested lists and objects."""
    max_json_elements: int = 8 * 1024 * 1024
    """Values, lists and objects in all: each of them becomes a Python object of about 32 bytes."""
    max_tensor_elements: int = 64 * 1024 * 1024
    """Of one input tensor."""
    max_image_pixels: int = 50_000_000
    """Width times height of an image, as its header says."""
    max_image_frames: int = 1
    """Frames of an animation; a prediction is made of one picture."""
    max_top: int = 1000
    """Classes in one answer of `POST /predict`."""
