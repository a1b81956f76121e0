"""Reading a version's folder: it counts only when the manifest is there, and every file is what it lists.

Nothing is followed, nothing is opened that isn't a regular file, and no file is read beyond the size it is listed
with. No file is interpreted here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .canonical import digest_of
from .document import DocumentError, load_json
from .failures import Failure, Gate, Reason
from .manifest import MANIFEST_NAME, MAX_FILES, MAX_MANIFEST_BYTES, FileEntry, Manifest

_CHUNK = 1024 * 1024
_MAX_MESSAGE = 2000
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class ArtifactError(Exception):
    """The folder doesn't hold the version it should; `failure` says why."""

    def __init__(self, reason: Reason, message: str, file: str | None = None) -> None:
        # Names on disk are bytes: what is no text is shown escaped, since a report has to be writable.
        message = _printable(message)[:_MAX_MESSAGE]
        super().__init__(message)
        self.failure = Failure(
            gate=Gate.DIGEST, reason=reason, message=message, file=None if file is None else _printable(file)
        )


@dataclass(frozen=True)
class Artifact:
    """A version's folder with its manifest read."""

    path: Path
    manifest: Manifest
    digest: str


def read_manifest(folder: Path) -> Artifact:
    """Reads the manifest of a version's folder, and nothing else of it. Raises `ArtifactError`."""
    path = folder / MANIFEST_NAME
    try:
        there = folder.is_dir()
    except OSError as error:
        raise ArtifactError(Reason.FILE_UNREADABLE, f"{folder} can't be read: {error.strerror}") from error
    if not there:
        raise ArtifactError(Reason.NOT_FOUND, f"there is no folder {folder}; copy the version there")
    try:
        with _open_regular(path, MANIFEST_NAME) as descriptor:
            data = descriptor.read(MAX_MANIFEST_BYTES + 1)
            while len(data) <= MAX_MANIFEST_BYTES and (more := descriptor.read(_CHUNK)):
                data += more
    except ArtifactError as error:
        if error.failure.reason is Reason.FILE_MISSING:
            raise ArtifactError(
                Reason.MANIFEST_MISSING,
                f"{folder} has no {MANIFEST_NAME}: the copy is not complete, or it was never packed "
                "(windlass pack, or windlass adopt for a TensorFlow Serving folder)",
                MANIFEST_NAME,
            ) from None
        raise
    try:
        value = load_json(data, str(path), MAX_MANIFEST_BYTES)
        manifest = Manifest.parse(value, str(path))
    except DocumentError as error:
        raise ArtifactError(Reason.MANIFEST_INVALID, str(error)[:2000], MANIFEST_NAME) from error
    return Artifact(folder, manifest, digest_of(value))


def verify(
    folder: Path,
    *,
    model: str,
    version: int,
    digest: str | None = None,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> Artifact:
    """Reads and hashes the whole version. Raises `ArtifactError` for the first thing that is not as declared.

    `digest`: what the manifest's has to be. `progress` is called with the number of bytes just hashed.
    """
    artifact = read_manifest(folder)
    manifest = artifact.manifest
    if digest is not None and artifact.digest != digest:
        raise ArtifactError(
            Reason.DIGEST_MISMATCH,
            f"the digest of {folder / MANIFEST_NAME} is {artifact.digest}, declared is {digest}: other files than "
            "the ones that were packed, or spec.artifact.digest is another version's",
            MANIFEST_NAME,
        )
    if (manifest.model, manifest.version) != (model, version):
        raise ArtifactError(
            Reason.MANIFEST_MISMATCH,
            f"{folder / MANIFEST_NAME} is of model {manifest.model!r} version {manifest.version}, "
            f"expected is {model!r} version {version}",
            MANIFEST_NAME,
        )
    listed = {entry.path for entry in manifest.files}
    found: set[str] = set()
    for name in walk(folder):
        if name == MANIFEST_NAME:
            continue
        if name not in listed:
            raise ArtifactError(
                Reason.FILE_UNLISTED, f"{folder / name} is not listed in {MANIFEST_NAME}; remove it or pack anew", name
            )
        found.add(name)
    for entry in manifest.files:
        if entry.path not in found:
            raise ArtifactError(
                Reason.FILE_MISSING, f"{folder / entry.path} is missing: the copy is not complete", entry.path
            )
    for entry in manifest.files:
        check_file(folder, entry, progress)
    return artifact


def check_file(folder: Path, entry: FileEntry, progress: Callable[[int], None] = lambda _bytes: None) -> None:
    """Compares one file with its entry. Raises `ArtifactError`."""
    size, sha256 = hash_file(folder, entry.path, limit=entry.size, progress=progress)
    _compare(folder, entry, size, sha256)


def _compare(folder: Path, entry: FileEntry, size: int, sha256: str) -> None:
    if size != entry.size:
        raise ArtifactError(
            Reason.FILE_SIZE_MISMATCH,
            f"{folder / entry.path} has {size} bytes, {entry.size} are listed: truncated, or still being copied",
            entry.path,
        )
    if sha256 != entry.sha256:
        raise ArtifactError(
            Reason.FILE_DIGEST_MISMATCH,
            f"{folder / entry.path} has other bytes than when it was packed (sha256 {sha256[:12]}…, "
            f"listed is {entry.sha256[:12]}…); copy it again",
            entry.path,
        )


def read_file(folder: Path, entry: FileEntry) -> bytes:
    """A file's bytes, which are those that are listed. Its size is the caller's to bound. Raises `ArtifactError`."""
    with _open_regular(folder / entry.path, entry.path) as descriptor:
        data = bytearray()
        while len(data) <= entry.size and (chunk := descriptor.read(_CHUNK)):
            data += chunk
    _compare(folder, entry, len(data), hashlib.sha256(data).hexdigest())
    return bytes(data)


def list_files(folder: Path, progress: Callable[[int], None] = lambda _bytes: None) -> list[FileEntry]:
    """Hashes every file of a folder but the manifest: what a new manifest lists. Raises `ArtifactError`."""
    entries = []
    for name in sorted(walk(folder)):
        if name != MANIFEST_NAME:
            size, sha256 = hash_file(folder, name, progress=progress)
            entries.append(FileEntry(path=name, size=size, sha256=sha256))
    return entries


def hash_file(
    folder: Path, name: str, *, limit: int | None = None, progress: Callable[[int], None] = lambda _bytes: None
) -> tuple[int, str]:
    """Size in bytes and sha256 of a regular file. Of a file that isn't as large as `limit`, only the size is looked at
    (a sparse file of terabytes costs nothing); the sum is then empty. Raises `ArtifactError`.
    """
    with _open_regular(folder / name, name) as descriptor:
        size = descriptor.size
        if limit is not None and size != limit:
            return size, ""
        sha256 = hashlib.sha256()
        read = 0
        while limit is None or read <= limit:
            chunk = descriptor.read(_CHUNK)
            if not chunk:
                break
            read += len(chunk)
            sha256.update(chunk)
            progress(len(chunk))
    return read, sha256.hexdigest()


def walk(folder: Path) -> Iterator[str]:
    """Relative POSIX paths of all regular files. Raises `ArtifactError` for links and special files, and for more
    entries than a manifest may list.
    """
    count = 0
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            with os.scandir(folder / prefix) as entries:
                for entry in entries:
                    count += 1
                    if count > MAX_FILES * 2:
                        raise ArtifactError(
                            Reason.FILE_UNLISTED, f"{folder} holds more than {MAX_FILES * 2} entries", prefix or None
                        )
                    name = f"{prefix}{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(name + "/")
                    elif entry.is_file(follow_symlinks=False):
                        yield name
                    else:
                        raise _irregular(folder, name)
        except OSError as error:
            raise ArtifactError(
                Reason.FILE_UNREADABLE, f"{folder / prefix} can't be read: {error.strerror}", prefix or None
            ) from error


@dataclass(frozen=True)
class _Descriptor:
    path: Path
    name: str
    fileno: int
    size: int

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end. Raises `ArtifactError`: a disk or a mount may fail at any time."""
        try:
            return os.read(self.fileno, size)
        except OSError as error:
            raise _unreadable(self.path, self.name, error) from error

    def __enter__(self) -> _Descriptor:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fileno)


def _open_regular(path: Path, name: str) -> _Descriptor:
    """Opens without following a link at the end and without waiting for a pipe's other side."""
    try:
        fileno = os.open(path, _OPEN_FLAGS)
    except FileNotFoundError:
        raise ArtifactError(Reason.FILE_MISSING, f"{path} is missing: the copy is not complete", name) from None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise _irregular(path.parent, path.name) from error
        raise _unreadable(path, name, error) from error
    status = os.fstat(fileno)
    if not stat.S_ISREG(status.st_mode):
        os.close(fileno)
        raise _irregular(path.parent, path.name)
    return _Descriptor(path, name, fileno, status.st_size)


def _unreadable(path: Path, name: str, error: OSError) -> ArtifactError:
    return ArtifactError(Reason.FILE_UNREADABLE, f"{path} can't be read: {error.strerror}", name)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _irregular(folder: Path, name: str) -> ArtifactError:
    return ArtifactError(
        Reason.FILE_IRREGULAR, f"{folder / name} is a link or a special file; a version holds plain files only", name
    )
