"""Takes a version from standard input, as `windlass push` sends it into a Pod: a tar with the manifest first, then the
files as it lists them. Checked and put in place as everything that is fetched.

`python -m windlass_server.fetching.receive MODEL VERSION DIGEST [--look]`: one line of JSON on standard output, and
exit code 0, when it is there; a sentence on standard error, and exit code 1, when it can't be; 3: with `--look`, it
isn't there yet.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

from windlass_contract.failures import Reason
from windlass_contract.fetching import OWN_FOLDER, work_folder
from windlass_server.fetching.download import Bounds, BusyError, Wanted, download, is_there
from windlass_server.fetching.sources import FetchError, Opened

_CHUNK = 1024 * 1024
_MAX_BYTES = 2**42
_DEADLINE_SECONDS = 24 * 3600.0
ABSENT = 3


class TarSource:
    """Files in the order in which they are asked for. Reads standard input as it comes, once."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive

    @contextlib.asynccontextmanager
    async def open(self, _uri: str, file: str, offset: int = 0) -> AsyncIterator[Opened]:
        """See `Source`. It always begins at the start."""
        try:
            member = self._archive.next()
            while member is not None and member.name != file:  # what an earlier attempt has put there already
                member = self._archive.next()
        except (tarfile.TarError, OSError) as error:
            raise FetchError(Reason.FETCH_FAILED, f"what is sent is no tar, or ended: {error}", file) from error
        content = self._archive.extractfile(member) if member is not None and member.isreg() else None
        if content is None:
            raise FetchError(Reason.FETCH_FAILED, f"what was sent ended before {file}", file)
        del offset
        yield Opened(0, self._chunks(content, file))

    async def _chunks(self, content: object, file: str) -> AsyncIterator[bytes]:
        try:
            while chunk := await asyncio.to_thread(content.read, _CHUNK):  # type: ignore[attr-defined]
                yield chunk
        except (tarfile.TarError, OSError) as error:
            raise FetchError(Reason.FETCH_FAILED, f"{file} ended before its time: {error}", file) from error


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="receive", description="Takes a version from standard input.")
    parser.add_argument("model")
    parser.add_argument("version", type=int)
    parser.add_argument("digest")
    parser.add_argument("--models", type=Path, default=Path(os.environ.get("WINDLASS_MODELS", "models")))
    parser.add_argument("--look", action="store_true", help="only say whether it is there: exit code 3 if not")
    given = parser.parse_args()
    wanted = Wanted(given.model, given.version, given.digest, f"{given.model}/{given.version}")
    os.umask(0o022)
    try:
        if given.look:
            if not is_there(given.models, wanted):
                sys.exit(ABSENT)
        else:
            _receive(given.models, wanted)
    except (FetchError, OSError, BusyError) as error:
        said = "another push or fetcher is at work on this version" if isinstance(error, BusyError) else str(error)
        sys.stderr.write(said + "\n")
        sys.exit(1)
    sys.stdout.write(json.dumps({"there": str(wanted), "digest": wanted.digest}) + "\n")


def _receive(models: Path, wanted: Wanted) -> None:
    (models / OWN_FOLDER).mkdir(mode=0o755, exist_ok=True)
    bounds = Bounds(_MAX_BYTES, _DEADLINE_SECONDS)
    try:
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            asyncio.run(download(models, wanted, TarSource(archive), bounds, lambda _share: None))
    except tarfile.TarError as error:
        raise FetchError(Reason.FETCH_FAILED, f"what is sent is no tar, or ended: {error}") from error
    except (FetchError, OSError):
        # Who pushes begins anew: nobody else would ever take this up.
        shutil.rmtree(models / work_folder(wanted.digest), ignore_errors=True)
        raise


if __name__ == "__main__":
    main()
