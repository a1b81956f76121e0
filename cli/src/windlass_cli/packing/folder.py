"""A version's folder comes into being at once: made beside, synced, renamed. What is left over of an interrupted
packing is removed by the next one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from windlass_cli.errors import UserError
from windlass_contract.manifest import MANIFEST_NAME, OWN_FOLDER

_CHUNK = 4 * 1024 * 1024


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` that becomes `target` when the block ends well, and vanishes when it doesn't,
    with the folders above it that were made for it. Raises `UserError` when the target is there."""
    refuse_existing(target)
    model = target.parent
    made = [folder for folder in (model, *model.parents) if not folder.exists()]
    try:
        _remove_left_over(model, f".{target.name}.packing-")
        staging = model / f".{target.name}.packing-{secrets.token_hex(4)}"
        staging.mkdir(parents=True)
    except OSError as error:
        _remove_empty(made)
        raise UserError(f"{model} can't be written: {error.strerror}") from error
    with _held(staging):
        try:
            yield staging
            sync(staging)
            refuse_existing(target)
            try:
                staging.rename(target)
            except OSError as error:
                if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                    refuse_existing(target)
                raise
            sync_folder(model)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    """Innermost first; what somebody put something into stays."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Shows others that a process works in the folder, for as long as it lives. Raises `BlockingIOError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_left_over(model: Path, prefix: str) -> None:
    """Of packings that were killed; those under way hold their folder."""
    for folder in model.glob(f"{prefix}*"):
        with contextlib.suppress(BlockingIOError), _held(folder):
            shutil.rmtree(folder, ignore_errors=True)


def refuse_existing(target: Path) -> None:
    """Raises `UserError`: versions are never overwritten."""
    if target.exists():
        what = "is a version already" if (target / MANIFEST_NAME).exists() else "exists already"
        raise UserError(
            f"{target} {what}; a version never changes once it is there. Give the next --version, or remove the folder "
            "if nothing serves it"
        )


def copy_tree(source: Path, target: Path, amount: Callable[[int], None]) -> None:
    """Copies a model's own files; links to files become files. Raises `UserError`. `amount` is told bytes copied."""
    for folder, folders, files in os.walk(source):
        relative = Path(folder).relative_to(source)
        folders.sort()
        if relative == Path():
            folders[:] = [each for each in folders if each != OWN_FOLDER]
            files = [each for each in files if each != MANIFEST_NAME]  # noqa: PLW2901 - what an earlier packing added
        (target / relative).mkdir(exist_ok=True)
        for name in [*folders, *files]:
            path = Path(folder) / name
            if path.is_symlink() and path.is_dir():
                raise UserError(f"{path} is a link to a folder; put the folder itself there")
            if not path.is_dir() and not path.is_file():
                raise UserError(f"{path} is not a plain file; remove it")
        for name in files:
            copy_file(Path(folder) / name, target / relative / name, amount)


def copy_file(source: Path, target: Path, amount: Callable[[int], None]) -> None:
    """Copies the bytes, not the owner, time or mode. Raises `UserError`."""
    try:
        with source.open("rb") as reading, target.open("wb") as writing:
            while chunk := reading.read(_CHUNK):
                writing.write(chunk)
                amount(len(chunk))
    except OSError as error:
        raise UserError(f"copying {source} to {target}: {error.strerror}") from error


def sync(folder: Path) -> None:
    """Puts every file and folder on disk."""
    for path, _folders, files in os.walk(folder):
        for name in files:
            with (Path(path) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(path))


def sync_folder(folder: Path) -> None:
    """Puts a folder's entries on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: str) -> None:
    """Writes a file at once: it is there whole, or not at all. Raises `UserError`."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with part.open("w", encoding="utf-8") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}") from error
