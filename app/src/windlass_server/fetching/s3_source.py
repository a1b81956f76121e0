"""s3://bucket/folder, of one S3 service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from windlass_contract.failures import Reason
from windlass_server.fetching.sources import FetchError, Opened

if TYPE_CHECKING:
    from obstore.store import S3Config

ACCESS_KEY, SECRET_KEY, SESSION_TOKEN = "access-key-id", "secret-access-key", "session-token"
_MAX_SECRET_BYTES = 16 * 1024
_CHUNK = 1024 * 1024
_IDENTITY_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Any of these: the platform has given this process an identity. Without one, a node's own is not asked for."""


@dataclass(frozen=True)
class S3Service:
    """Where buckets are."""

    endpoint: str
    region: str
    credentials: Path | None
    """Folder with the files `ACCESS_KEY`, `SECRET_KEY` and, if there is one, `SESSION_TOKEN`."""
    ca_file: Path | None
    plain: bool
    """Whether the endpoint may be http://."""
    stall_seconds: float


class S3Source:
    """Objects of an S3 service, by path-style addresses."""

    def __init__(self, service: S3Service) -> None:
        self._service = service

    @contextlib.asynccontextmanager
    async def open(self, uri: str, file: str, offset: int = 0) -> AsyncIterator[Opened]:
        """See `Source`."""
        bucket, _, folder = uri.removeprefix("s3://").partition("/")
        key = f"{folder.strip('/')}/{file}".lstrip("/")
        shown = f"s3://{bucket}/{key}"
        store, identity = await asyncio.to_thread(self._store, bucket)
        try:
            async with asyncio.timeout(self._service.stall_seconds * 2):
                options: obstore.GetOptions = {"range": {"offset": offset}} if offset else {}
                result = await obstore.get_async(store, key, options=options)
        except TimeoutError:
            raise FetchError(Reason.FETCH_FAILED, f"{shown}: no answer from {self._service.endpoint}", file) from None
        except (BaseError, ValueError, OSError) as error:
            raise self._failed(error, shown, file, identity) from error
        yield Opened(result.range[0], self._chunks(result, shown, file, identity))

    async def _chunks(self, result: obstore.GetResult, shown: str, file: str, identity: bool) -> AsyncIterator[bytes]:
        stream = result.stream(min_chunk_size=_CHUNK).__aiter__()
        while True:
            try:
                async with asyncio.timeout(self._service.stall_seconds):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise FetchError(
                    Reason.FETCH_FAILED, f"{shown}: nothing came for {self._service.stall_seconds:g} s", file
                ) from None
            except (BaseError, OSError) as error:
                raise self._failed(error, shown, file, identity) from error
            yield bytes(chunk)

    def _store(self, bucket: str) -> tuple[S3Store, bool]:
        """Made anew, since credentials and certificates may have been rotated; and whether it has an identity."""
        service = self._service
        secrets: S3Config = _read_credentials(service.credentials) if service.credentials is not None else {}
        identity = bool(secrets) or any(os.environ.get(name) for name in _IDENTITY_VARIABLES)
        try:
            certificates = service.ca_file.read_bytes() if service.ca_file is not None else None
            store = S3Store(
                bucket,
                endpoint=service.endpoint,
                region=service.region,
                virtual_hosted_style_request=False,
                skip_signature=not identity,
                client_options={
                    "allow_http": service.plain,
                    "connect_timeout": timedelta(seconds=10),
                    "timeout": timedelta(days=1),  # of a whole object; what stalls is ended by us
                    **({"root_certificate": certificates} if certificates is not None else {}),
                },
                retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=service.stall_seconds)},
                config=secrets,
            )
        except (BaseError, ValueError, OSError) as error:
            raise FetchError(Reason.FETCH_FAILED, f"{service.endpoint} can't be asked: {_words(error)}") from error
        return store, identity

    def _failed(self, error: Exception, shown: str, file: str, identity: bool) -> FetchError:
        if isinstance(error, FileNotFoundError | NotFoundError):  # it raises Python's own
            return FetchError(
                Reason.NOT_FOUND,
                f"{shown}: {self._service.endpoint} has no such object; is spec.artifact.uri the folder with "
                "manifest.json in it?",
                file,
            )
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            remedy = (
                "it doesn't take the fetcher's credentials, or they may not read there"
                if identity
                else "the fetcher has no credentials: give it some with --s3-credentials-dir "
                "(WINDLASS_S3_CREDENTIALS_DIR)"
            )
            return FetchError(Reason.FETCH_DENIED, f"{shown}: {self._service.endpoint} denies it: {remedy}", file)
        return FetchError(Reason.FETCH_FAILED, f"{shown}: {_words(error)}", file)


def _read_credentials(folder: Path) -> S3Config:
    found: S3Config = {}
    found["access_key_id"] = _read_secret(folder / ACCESS_KEY)
    found["secret_access_key"] = _read_secret(folder / SECRET_KEY)
    if (folder / SESSION_TOKEN).exists():
        found["session_token"] = _read_secret(folder / SESSION_TOKEN)
    return found


def _read_secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SECRET_BYTES).decode("ascii").strip()
    except OSError as error:
        raise FetchError(
            Reason.FETCH_DENIED, f"the credentials for S3 can't be read: {path}: {error.strerror}"
        ) from error
    except UnicodeDecodeError:
        raise FetchError(Reason.FETCH_DENIED, f"the credentials for S3 in {path} are not text") from None


def _words(error: Exception) -> str:
    """The first line of what obstore says, and the cause, which is all that counts of the rest."""
    text = str(error).strip()
    _, found, rest = text.partition("InvalidCertificate(")
    if found:
        why = [word for word in re.findall(r"[A-Z]\w+", rest) if not word.startswith("Other")]
        return (
            f"its certificate isn't trusted ({why[0] if why else 'invalid'}); name its authority's with "
            "--source-ca-file (WINDLASS_SOURCE_CA_FILE)"
        )
    causes = re.findall(r'message: "(.*?)"', text)
    first = (text.splitlines() or [type(error).__name__])[0][:500]
    return f"{first}: {causes[-1][:200]}" if causes else first
