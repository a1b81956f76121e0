"""One version's files: put together beside, each checked as it comes, and renamed into place when all are there.

The manifest comes first. Nothing else is asked for before its digest is the declared one, and no file gets more bytes
than it lists. What an attempt left is taken up by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from windlass_contract.artifact import ArtifactError, hash_file, read_manifest
from windlass_contract.canonical import digest_of
from windlass_contract.document import DocumentError, load_json
from windlass_contract.failures import Reason
from windlass_contract.fetching import lock_path, work_folder
from windlass_contract.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, FileEntry, Manifest
from windlass_server.durable import sync_folder
from windlass_server.fetching.sources import FetchError, Source

_READ_BY_ALL = 0o644
_FOLDER_MODE = 0o755


@dataclass(frozen=True)
class Wanted:
    """A version to fetch."""

    model: str
    version: int
    digest: str
    uri: str

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True)
class Bounds:
    """What one version may cost."""

    max_bytes: int
    deadline: float
    """Seconds for an attempt."""


class BusyError(Exception):
    """Another fetcher on the same volume is at work on this version."""


def is_there(models: Path, wanted: Wanted) -> bool:
    """Whether the version is in its place. Raises `FetchError` when something else is."""
    place = models / str(wanted)
    if not os.path.lexists(place):
        return False
    try:
        found = read_manifest(place).digest
    except ArtifactError as error:
        # An empty folder gives way to the rename.
        if error.failure.reason is Reason.MANIFEST_MISSING and not any(place.iterdir()):
            return False
        raise FetchError(
            Reason.FETCH_NOT_ALLOWED,
            f"{place} is taken by something that isn't this version, which the fetcher leaves alone: "
            f"{error.failure.message}",
        ) from error
    if found != wanted.digest:
        raise FetchError(
            Reason.FETCH_NOT_ALLOWED,
            f"{place} holds other files (digest {found}), which the fetcher leaves alone: remove the folder, or give "
            "the new files a version number of their own",
        )
    return True


async def download(
    models: Path, wanted: Wanted, source: Source, bounds: Bounds, progress: Callable[[float], None]
) -> bool:
    """Returns when the version is in its place: whether this put it there. Raises `FetchError`, or `BusyError`.
    `progress`: share of the bytes."""
    try:
        with locked(models / lock_path(wanted.digest)):
            if await asyncio.to_thread(is_there, models, wanted):
                return False
            progress(0.0)
            async with asyncio.timeout(bounds.deadline):
                await _Attempt(models / work_folder(wanted.digest), wanted, source, bounds, progress).run()
            await asyncio.to_thread(_put, models / work_folder(wanted.digest), models / str(wanted))
            return True
    except TimeoutError:
        raise FetchError(
            Reason.FETCH_FAILED, f"{wanted.uri} isn't there after {bounds.deadline:g} s; the next attempt goes on"
        ) from None
    except ArtifactError as error:
        raise FetchError(error.failure.reason, error.failure.message, error.failure.file) from error
    except OSError as error:
        raise FetchError(
            Reason.FETCH_FAILED, f"the folder of models {models} can't be written: {error.strerror or error}"
        ) from error


class _Attempt:
    def __init__(
        self, folder: Path, wanted: Wanted, source: Source, bounds: Bounds, progress: Callable[[float], None]
    ) -> None:
        self._folder = folder
        self._wanted = wanted
        self._source = source
        self._bounds = bounds
        self._progress = progress
        self._done = 0
        self._total = 1

    async def run(self) -> None:
        """Everything is in the folder and checked when it returns."""
        manifest, data = await self._manifest()
        self._total = max(sum(entry.size for entry in manifest.files), 1)
        if self._total > self._bounds.max_bytes:
            raise FetchError(
                Reason.FETCH_NOT_ALLOWED,
                f"{self._wanted.uri} has {self._total} bytes; the fetcher may get {self._bounds.max_bytes} for a "
                "version (--max-bytes, WINDLASS_MAX_BYTES)",
            )
        self._folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        await asyncio.to_thread(self._check_space, manifest)
        for entry in manifest.files:
            await self._file(entry)
        # Last, as everywhere: a folder counts only with it.
        with _writing(self._folder / MANIFEST_NAME, 0) as descriptor:
            _write(descriptor, data)
            await asyncio.to_thread(os.fsync, descriptor)

    async def _manifest(self) -> tuple[Manifest, bytes]:
        wanted, shown = self._wanted, f"{self._wanted.uri.rstrip('/')}/{MANIFEST_NAME}"
        data = bytearray()
        async with self._source.open(wanted.uri, MANIFEST_NAME) as opened:
            async for chunk in opened.chunks:
                data += chunk
                if len(data) > MAX_MANIFEST_BYTES:
                    raise FetchError(
                        Reason.MANIFEST_INVALID, f"{shown} has more than {MAX_MANIFEST_BYTES} bytes", MANIFEST_NAME
                    )
        try:
            value = load_json(bytes(data), shown, MAX_MANIFEST_BYTES)
            found = digest_of(value)
            if found != wanted.digest:
                raise FetchError(
                    Reason.DIGEST_MISMATCH,
                    f"the digest of {shown} is {found}, declared is {wanted.digest}: other files than the ones that "
                    "were packed, or spec.artifact.digest is another version's",
                    MANIFEST_NAME,
                )
            manifest = Manifest.parse(value, shown)
        except DocumentError as error:
            raise FetchError(Reason.MANIFEST_INVALID, str(error), MANIFEST_NAME) from error
        if (manifest.model, manifest.version) != (wanted.model, wanted.version):
            raise FetchError(
                Reason.MANIFEST_MISMATCH,
                f"{shown} is of model {manifest.model!r} version {manifest.version}, expected is {wanted.model!r} "
                f"version {wanted.version}",
                MANIFEST_NAME,
            )
        return manifest, bytes(data)

    def _check_space(self, manifest: Manifest) -> None:
        there = 0
        for entry in manifest.files:
            with contextlib.suppress(FileNotFoundError):
                there += min((self._folder / entry.path).stat(follow_symlinks=False).st_size, entry.size)
        free = shutil.disk_usage(self._folder).free
        if self._total - there > free:
            raise FetchError(
                Reason.FETCH_FAILED,
                f"{self._wanted} needs {self._total - there} more bytes; the volume of models has {free} left",
            )

    async def _file(self, entry: FileEntry) -> None:
        path = self._folder / entry.path
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        kept = await asyncio.to_thread(self._kept, entry)
        if kept is None:
            self._advance(entry.size)
            return
        offset, sha256 = kept
        resumed = offset > 0
        async with self._source.open(self._wanted.uri, entry.path, offset) as opened:
            if opened.start != offset:
                offset, sha256 = 0, hashlib.sha256()
            self._advance(offset)
            with _writing(path, offset) as descriptor:
                size = await self._receive(entry, opened.chunks, descriptor, offset, sha256)
                await asyncio.to_thread(os.fsync, descriptor)
        found = sha256.hexdigest()
        if size == entry.size and found == entry.sha256:
            return
        shown = f"{self._wanted.uri.rstrip('/')}/{entry.path}"
        if size < entry.size:
            raise FetchError(
                Reason.FETCH_FAILED,
                f"{shown} ended after {size} bytes, {entry.size} are listed; the next attempt goes on",
                entry.path,
            )
        # Whatever is wrong with it, the next attempt begins anew.
        path.unlink()
        if resumed:
            raise FetchError(
                Reason.FETCH_FAILED,
                f"{shown} doesn't go on where an earlier attempt ended: it was changed since; it is fetched anew",
                entry.path,
            )
        raise FetchError(
            Reason.FILE_DIGEST_MISMATCH,
            f"{shown} has other bytes than when it was packed (sha256 {found[:12]}…, listed is {entry.sha256[:12]}…): "
            "it was changed or damaged; put the packed file there again",
            entry.path,
        )

    async def _receive(
        self, entry: FileEntry, chunks: AsyncIterator[bytes], descriptor: int, size: int, sha256: hashlib._Hash
    ) -> int:
        """Writes what comes, and gives the file's size then. Raises `FetchError` for a byte more than is listed."""
        async for chunk in chunks:
            size += len(chunk)
            if size > entry.size:
                os.ftruncate(descriptor, 0)
                raise FetchError(
                    Reason.FILE_SIZE_MISMATCH,
                    f"{self._wanted.uri.rstrip('/')}/{entry.path} has more than the {entry.size} bytes that are "
                    "listed: it was changed; put the packed file there again",
                    entry.path,
                )
            sha256.update(chunk)
            _write(descriptor, chunk)
            self._advance(len(chunk))
        return size

    def _kept(self, entry: FileEntry) -> tuple[int, hashlib._Hash] | None:
        """How much of a file an earlier attempt left, with the sum of that; None: all of it, and it is right."""
        path = self._folder / entry.path
        if not os.path.lexists(path):
            return 0, hashlib.sha256()
        size = path.stat(follow_symlinks=False).st_size
        if size == entry.size:
            if hash_file(self._folder, entry.path, limit=size) == (entry.size, entry.sha256):
                return None
            return 0, hashlib.sha256()
        if size > entry.size:
            return 0, hashlib.sha256()
        sha256 = hashlib.sha256()
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            while chunk := file.read(1024 * 1024):
                sha256.update(chunk)
        return size, sha256

    def _advance(self, count: int) -> None:
        self._done += count
        self._progress(min(self._done / self._total, 1.0))


def _put(work: Path, place: Path) -> None:
    """Renames the complete folder into its place, which is empty; after that no crash undoes it."""
    for path, _, _ in os.walk(work):
        sync_folder(Path(path))
    place.parent.mkdir(mode=_FOLDER_MODE, exist_ok=True)
    work.rename(place)
    for folder in (place.parent, place.parent.parent, work.parent):
        sync_folder(folder)


@contextlib.contextmanager
def _writing(path: Path, offset: int) -> Iterator[int]:
    """Opened at `offset`, with nothing behind it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _READ_BY_ALL)
    try:
        os.ftruncate(descriptor, offset)
        os.lseek(descriptor, offset, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held by one fetcher of the volume. Raises `BusyError`, or `OSError` where the volume has no locks."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{path} is locked") from None
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(models: Path, digest: str) -> None:
    """Removes what an attempt left, unless another fetcher is at it. A version in its place is never touched."""
    try:
        with locked(models / lock_path(digest)):
            shutil.rmtree(models / work_folder(digest), ignore_errors=True)
    except BusyError:
        return
