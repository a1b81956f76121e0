"""Which runtime a replica is going to need, by what lies in its folder of models: a hint, to import it early."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

_MOST_VERSIONS = 20
"""That are looked at, for the folder may be large and far away."""
_RUNTIME_OF_FILE = {"saved_model.pb": "tensorflow", ".tflite": "litert"}
"""By how a file's name ends."""


def likely_runtime(models: Path) -> str | None:
    """The only runtime that the first versions need. None where they need several or none, or the folder can't be
    read: a template that nobody comes to need takes hundreds of megabytes."""
    runtimes: set[str] = set()
    try:
        for version in islice(_versions(models), _MOST_VERSIONS):
            names = os.listdir(version)  # noqa: PTH208 - names are all that is looked at
            runtimes |= {
                runtime for ending, runtime in _RUNTIME_OF_FILE.items() if any(name.endswith(ending) for name in names)
            }
    except OSError:
        return None
    return runtimes.pop() if len(runtimes) == 1 else None


def _versions(models: Path) -> Iterator[Path]:
    """Folders that are versions by their name."""
    for model in sorted(models.iterdir()):
        if model.name[0] not in "._" and model.is_dir():
            yield from (each for each in sorted(model.iterdir()) if each.name.isdecimal() and each.is_dir())
