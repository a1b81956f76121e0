"""Whose control token a request carries."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_TOKEN_BYTES = 4096
_TOKEN_BYTES = 32
_SERVER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Identity:
    """Who a token was given to."""

    server: str
    replica: str | None = None
    """The one replica that it was given to; None: any of the server's."""
    namespace: str = ""
    """The server's namespace, where servers of several can have the same name."""

    @property
    def key(self) -> str:
        """Names the server among all those of the operator."""
        return f"{self.namespace}/{self.server}" if self.namespace else self.server


class Authenticator(Protocol):
    """Turns a token into an identity."""

    async def identify(self, token: str, server: str) -> Identity | None:
        """Who the token was given to; None: to nobody. `server` is the one asked for, which is looked at first."""


class FileTokens:
    """One file per server, `<folder>/<server>`, read anew at each use: a token is rotated by replacing its file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def identify(self, token: str, server: str) -> Identity | None:
        given = token.encode("utf-8", "surrogateescape")
        for name in self._names(first=server):
            expected = read_token(self.folder / name)
            if expected and hmac.compare_digest(expected, given):
                return Identity(name)
        return None

    def _names(self, first: str) -> Iterator[str]:
        yield first
        try:
            names = sorted(os.listdir(self.folder))  # noqa: PTH208 - names alone are wanted
        except OSError:
            return
        yield from (name for name in names if name != first and _SERVER_NAME.fullmatch(name))


def read_token(path: Path) -> bytes | None:
    """The token in a file, without white space around it; None when there is none to be had."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        data = os.read(descriptor, MAX_TOKEN_BYTES + 1)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    token = data.strip()
    return token if 0 < len(token) <= MAX_TOKEN_BYTES else None


def new_token() -> bytes:
    """A token nobody can guess, as it stands in a file."""
    return secrets.token_urlsafe(_TOKEN_BYTES).encode() + b"\n"
