"""`objects.json`: what each file said when it was last accepted, so that a restart forgets no generation, no identity
and no server of a file that has become unreadable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from windlass_contract.document import Document
from windlass_contract.model_version import ModelVersion

from .catalogue import Remembered
from .files import read_bounded, write_atomically

MAX_MEMORY_BYTES = 256 * 1024 * 1024


class _Object(Document):
    generation: Annotated[int, Field(ge=1)]
    model_version: ModelVersion


class _Memory(Document):
    files: dict[str, _Object] = {}


def load_memory(path: Path) -> dict[str, Remembered]:
    """What is remembered, by file; empty when there is nothing yet. Raises `DocumentError` when it is damaged and
    `FileProblemError` when it can't be read.
    """
    try:
        data = read_bounded(path, MAX_MEMORY_BYTES)
    except FileNotFoundError:
        return {}
    memory = _Memory.parse_json(data, str(path), MAX_MEMORY_BYTES)
    return {file: Remembered(each.model_version, each.generation) for file, each in memory.files.items()}


def save_memory(path: Path, memory: Mapping[str, Remembered]) -> None:
    """Replaces what is remembered. Raises `OSError`."""
    files = {
        file: {"generation": each.generation, "modelVersion": each.model_version.to_dict()}
        for file, each in sorted(memory.items())
    }
    write_atomically(path, json.dumps({"files": files}, indent=1, ensure_ascii=False).encode() + b"\n")
