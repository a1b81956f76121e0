"""The replica's own copy of the plan it took last: with nobody in reach, it starts on that."""

from __future__ import annotations

import os
from pathlib import Path

from windlass_contract.plan import ServingPlan
from windlass_contract.record import ServerState
from windlass_server.durable import sync_folder

COPY_NAME = "plan.json"
MAX_STATE_BYTES = 16 * 1024 * 1024
"""A state that an operator wrote holds the record too."""


def save(folder: Path, plan: ServingPlan) -> None:
    """Replaces the copy at once: a crash leaves the old or the new one. Raises `OSError`."""
    data = ServerState(server=plan.server, plan=plan).model_dump_json(by_alias=True, exclude_unset=True).encode()
    part = folder / f".{COPY_NAME}.part"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / COPY_NAME)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(folder)


def load(folder: Path) -> ServingPlan | None:
    """The copy; None when there is none. Raises `DocumentError` for one that is damaged, `OSError` when it can't be
    read."""
    return read_state(folder / COPY_NAME)


def read_state(path: Path) -> ServingPlan | None:
    """The plan in a `ServerState` file; None when there is no file, or no plan in it. Raises as `load`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        return None
    return ServerState.parse_json(data, str(path), MAX_STATE_BYTES).plan
