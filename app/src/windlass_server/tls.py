"""The TLS files of a port: loaded together or not at all, and anew when they change."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from windlass_server.secret_files import Watched, read_bounded, warn_if_everyone_reads

log = structlog.get_logger(__name__)

MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: a certificate chain, and its key."""

    certificate: Path
    key: Path


class TlsError(Exception):
    """The files can't be used; the message names them."""


class Tls:
    """A server's TLS context over two files. `reload` after a change; new connections then see the new certificate."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises `TlsError`."""
        self._files = files
        self.watched = Watched([files.certificate, files.key])
        """To be followed by whoever serves."""
        self.context = _new_context()
        self._load()

    def reload(self) -> None:
        """Reads the files anew; a pair that can't be used leaves things as they were. Never raises."""
        try:
            self._load()
        except TlsError as error:
            log.warning("the TLS certificate stays as it was", reason=str(error))
            return
        log.info("TLS certificate read anew", file=str(self._files.certificate))

    def _load(self) -> None:
        try:
            with _snapshot(self._files) as (certificate, key):
                # A pair that doesn't fit would leave half of itself behind: it is tried where it does no harm.
                _new_context().load_cert_chain(certificate, key, _no_passphrase)
                self.context.load_cert_chain(certificate, key, _no_passphrase)
            warn_if_everyone_reads(self._files.key, "TLS key")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise TlsError(
                f"the TLS files {self._files.certificate} and {self._files.key} can't be used: {error}"
            ) from error


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted, and there is nobody to ask for its passphrase")


@contextmanager
def _snapshot(files: TlsFiles) -> Iterator[tuple[str, str]]:
    """Both files as they are now, in memory: what is tried is what is loaded, whatever is written meanwhile."""
    with ExitStack() as stack:
        paths = []
        for path in (files.certificate, files.key):
            descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
            stack.callback(os.close, descriptor)
            data = memoryview(read_bounded(path, MAX_FILE_BYTES))
            while data:
                data = data[os.write(descriptor, data) :]
            paths.append(f"/proc/self/fd/{descriptor}")
        yield paths[0], paths[1]
