"""Control tokens on disk: one per server, made when it is first named."""

from __future__ import annotations

from pathlib import Path

from windlass_operator.control.auth import new_token

from .files import write_atomically


def ensure_token(folder: Path, server: str) -> bool:
    """Makes the server's token unless there is one; returns whether it was made. Raises `OSError`.

    One that is there is never touched, whatever stands in it: it is somebody's.
    """
    path = folder / server
    if path.exists() or path.is_symlink():
        return False
    write_atomically(path, new_token(), mode=0o600)
    return True
