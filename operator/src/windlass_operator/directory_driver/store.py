"""The durable objects: `servers/<server>.json`, plan and record of a server in one file, written by compare and rename.

The file's generation is the digest of its bytes: an old copy that was put back, or an edit by hand, is another
generation, and a write that was computed from this one is refused.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from windlass_contract.canonical import digest_of_bytes
from windlass_contract.document import DocumentError
from windlass_contract.record import ServerState
from windlass_operator.driving.durable import DamagedStateError, StoreConflictError, Stored, StoreError

from .files import FileProblemError, NotLastingError, read_bounded, sync_folder, write_atomically
from .lock import StateLock

MAX_STATE_BYTES = 64 * 1024 * 1024
_FILE_NAME = re.compile(r"([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)\.json")


class StateStore:
    """The durable objects of all servers. Who writes holds `lock`."""

    def __init__(self, folder: Path, lock: StateLock) -> None:
        self.folder = folder
        self._lock = lock
        self._not_lasting: set[str] = set()
        """Servers whose object was renamed into place without being known to last."""

    def path(self, server: str) -> Path:
        """The file of a server."""
        return self.folder / f"{server}.json"

    def servers(self) -> list[str]:
        """Servers that have a durable object. Raises `StoreError`."""
        try:
            names = [entry.name for entry in self.folder.iterdir()]
        except OSError as error:
            raise StoreError(f"{self.folder} can't be listed: {error.strerror}") from error
        return sorted(match[1] for name in names if (match := _FILE_NAME.fullmatch(name)))

    def generation(self, server: str) -> str:
        """The generation of a server's object; empty: there is none. Raises `StoreError`."""
        data = self._read(server)
        return "" if data is None else digest_of_bytes(data)

    def read(self, server: str) -> Stored:
        """The durable object of a server. Raises `StoreError` when it can't be read, `DamagedStateError` when it is
        damaged; then `put_aside` makes it count as missing, since replicas carry what it takes to rebuild it.
        """
        try:
            # Who wrote it may have died between the rename and this.
            sync_folder(self.folder)
        except OSError as error:
            raise StoreError(f"{self.folder} can't be synced: {error.strerror}") from error
        data = self._read(server)
        if data is None:
            return Stored(None, "")
        path = self.path(server)
        try:
            state = ServerState.parse_json(data, str(path), MAX_STATE_BYTES)
            if state.server != server:
                raise DamagedStateError(f"{path} is of server {state.server!r}")
        except DocumentError as error:
            raise DamagedStateError(str(error)[:2000]) from error
        return Stored(state, digest_of_bytes(data))

    def put_aside(self, server: str) -> Path:
        """Renames a damaged object, so that it counts as missing and can still be looked at. Raises `StoreError`."""
        path = self.path(server)
        aside = path.with_name(f"{path.name}.damaged")
        try:
            path.rename(aside)
        except OSError as error:
            raise StoreError(f"{path} can't be put aside: {error.strerror}") from error
        return aside

    def write(self, server: str, state: ServerState, expected: str) -> str:
        """Replaces the object whose generation is `expected` (empty: there is none), and returns the new generation.
        It is on disk when this returns. Raises `StoreConflictError` and `StoreError`.
        """
        if not self._lock.holds():
            raise StoreConflictError(f"the lock {self._lock.path} isn't held any more")
        found = self.generation(server)
        if found != expected:
            raise StoreConflictError(f"{self.path(server)} was changed by somebody else")
        data = json.dumps(state.to_dict(), indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            self._replace(server, data)
        except OSError as error:
            raise StoreError(f"{self.path(server)} can't be written: {error.strerror}") from error
        return digest_of_bytes(data)

    def _replace(self, server: str, data: bytes) -> None:
        try:
            write_atomically(self.path(server), data)
        except NotLastingError:
            self._not_lasting.add(server)
            raise
        self._not_lasting.discard(server)

    def _read(self, server: str) -> bytes | None:
        try:
            data = read_bounded(self.path(server), MAX_STATE_BYTES)
            if server in self._not_lasting and self._lock.holds():
                # A second sync may succeed although the first one's data is lost: only writing anew is sure.
                self._replace(server, data)
        except FileNotFoundError:
            return None
        except FileProblemError as error:
            raise StoreError(f"{self.path(server)}: {error}") from error
        except OSError as error:
            raise StoreError(f"{self.path(server)} isn't known to last: {error.strerror}") from error
        return data


class FolderStore:
    """The same for the passes: off the event loop. What it says is as old as the answer."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._asked: set[str] = set()
        self._look: asyncio.Task[dict[str, str | StoreError]] | None = None
        """The look that whoever asks in this turn of the event loop shares."""

    async def age(self, key: str, generation: str) -> float | None:
        """0, or None: the file has another generation. Raises `StoreError`."""
        if self._look is None:
            # All servers are confirmed at the same moment: a thread for each would cost more than the looks.
            self._look = asyncio.create_task(self._look_once())
        self._asked.add(key)
        found = (await asyncio.shield(self._look))[key]
        if isinstance(found, StoreError):
            raise found
        return 0.0 if found == generation else None

    async def _look_once(self) -> dict[str, str | StoreError]:
        asked, self._asked, self._look = self._asked, set(), None
        return await asyncio.to_thread(self._generations, sorted(asked))

    def _generations(self, servers: list[str]) -> dict[str, str | StoreError]:
        found: dict[str, str | StoreError] = {}
        for server in servers:
            try:
                found[server] = self._store.generation(server)
            except StoreError as error:
                found[server] = error
        return found

    async def read(self, key: str) -> Stored:
        """See `StateStore.read`."""
        return await asyncio.to_thread(self._store.read, key)

    async def put_aside(self, key: str) -> str:
        """See `StateStore.put_aside`."""
        return str(await asyncio.to_thread(self._store.put_aside, key))

    async def write(self, key: str, state: ServerState, expected: str) -> str:
        """See `StateStore.write`."""
        return await asyncio.to_thread(self._store.write, key, state, expected)
