"""Who may ask: API keys from a file. Off unless a file is set.

The questions of orchestrators stay open: they carry no key, and tell nothing about the models.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

import orjson
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from windlass_server.secret_files import Watched, read_bounded, warn_if_everyone_reads

log = structlog.get_logger(__name__)

OPEN_PATHS = frozenset({b"/livez", b"/readyz", b"/health", b"/v2/health/live", b"/v2/health/ready"})
"""Answered to everyone, in these very letters."""
MAX_FILE_BYTES = 64 * 1024
MAX_KEYS = 256
_KEY = re.compile(rb"[!-~]{16,512}")
_BEARER = re.compile(rb"bearer +([!-~]+) *", re.IGNORECASE)


class KeyFileError(Exception):
    """The file of keys can't be used; the message names it and says why."""


def read_keys(path: Path) -> list[bytes]:
    """The keys of a file: one per line, empty lines and lines with `#` first left out. Raises `KeyFileError`."""
    try:
        lines = [line.strip() for line in read_bounded(path, MAX_FILE_BYTES).splitlines()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise KeyFileError(f"the file of API keys {path} can't be read: {reason}") from error
    keys = []
    for number, line in enumerate(lines, start=1):
        if not line or line.startswith(b"#"):
            continue
        if not _KEY.fullmatch(line):
            # The line itself is not shown: it may be a key with a typing error.
            raise KeyFileError(
                f"line {number} of the file of API keys {path} is no key: 16 to 512 printable ASCII characters without "
                "spaces are expected, as `openssl rand -hex 32` makes them"
            )
        keys.append(line)
    if not keys:
        raise KeyFileError(f"the file of API keys {path} holds no key: write one per line")
    if len(keys) > MAX_KEYS:
        raise KeyFileError(f"the file of API keys {path} holds {len(keys)} keys; {MAX_KEYS} are read")
    return keys


class ApiKeys:
    """The keys that are taken now. `reload` after a change; a file that can't be used leaves them as they were."""

    def __init__(self, path: Path) -> None:
        """Raises `KeyFileError`."""
        self._path = path
        self.watched = Watched([path])
        """To be followed by whoever runs the replica."""
        self._digests = _digests(read_keys(path))
        warn_if_everyone_reads(path, "API keys")

    def reload(self) -> None:
        """Reads the file anew. Never raises."""
        try:
            digests = _digests(read_keys(self._path))
            warn_if_everyone_reads(self._path, "API keys")
        except (KeyFileError, OSError) as error:
            log.warning("the API keys stay as they were", reason=str(error))
            return
        self._digests = digests
        log.info("API keys read anew", keys=len(digests))

    def accepts(self, key: bytes) -> bool:
        """Whether it is one of them; takes as long for any key, right or wrong, first or last."""
        digest = hashlib.sha256(key).digest()
        found = False
        for each in self._digests:
            found |= hmac.compare_digest(digest, each)
        return found


def _digests(keys: Iterable[bytes]) -> tuple[bytes, ...]:
    """Of one length each, so that a comparison tells nothing of a key's length either."""
    return tuple(hashlib.sha256(key).digest() for key in keys)


def given_keys(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """What a request shows: `Authorization: Bearer KEY` and `X-API-Key: KEY`; nothing when one is repeated."""
    shown: dict[bytes, list[bytes]] = {b"authorization": [], b"x-api-key": []}
    for name, value in headers:
        if name in shown:
            shown[name].append(value)
    keys = []
    if len(shown[b"authorization"]) == 1 and (bearer := _BEARER.fullmatch(shown[b"authorization"][0])):
        keys.append(bearer[1])
    if len(shown[b"x-api-key"]) == 1:
        keys.append(shown[b"x-api-key"][0])
    return keys


class KeyGuard:
    """Lets through what shows a key, or asks for health; the rest is 401 before anything of it is read."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or refuses it."""
        if scope["type"] != "http" or _is_open(scope):
            await self._app(scope, receive, send)
            return
        given = given_keys(scope["headers"])
        if any(self._keys.accepts(key) for key in given):
            await self._app(scope, receive, send)
            return
        why = "the API key is wrong" if given else "an API key is needed"
        body = orjson.dumps({"error": f"{why}: send the header Authorization: Bearer KEY, or X-API-Key: KEY"})
        challenge = b'Bearer realm="windlass"' + (b', error="invalid_token"' if given else b"")
        await send(
            {
                "type": "http.response.start",
                "status": 401,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                    (b"www-authenticate", challenge),
                ],
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _is_open(scope: Scope) -> bool:
    # The path as it was sent: what is written in another way is another path.
    raw = scope.get("raw_path") or scope["path"].encode()
    return bytes(raw).partition(b"?")[0] in OPEN_PATHS
