"""https://, and http:// where that was allowed: only from allowed hosts, wherever a redirect leads."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import netrc
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
from yarl import URL

from windlass_contract.failures import Reason
from windlass_server.fetching.sources import FetchError, Opened, join

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
_CHUNK = 1024 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def allowed(host: str, port: int | None, patterns: tuple[str, ...]) -> bool:
    """Whether a host is among `patterns`: a name, `name:port`, `*.example.com` for what is below it, `*` for any.

    >>> allowed("a.example.com", 443, ("*.example.com",)), allowed("example.com", 443, ("*.example.com",))
    (True, False)
    >>> allowed("models.local", 8443, ("models.local",)), allowed("models.local", 8443, ("models.local:8443",))
    (False, True)
    """
    for pattern in patterns:
        name, _, wanted = pattern.lower().rpartition(":") if ":" in pattern else (pattern.lower(), "", "")
        # A host without a port means the scheme's own; `*` means whatever there is.
        if pattern != "*" and (port not in {80, 443} if not wanted else str(port) != wanted):
            continue
        if name in {"*", host.lower()} or (name.startswith("*.") and host.lower().endswith(name[1:])):
            return True
    return False


class HttpsSource:
    """Files of web servers."""

    def __init__(
        self,
        hosts: tuple[str, ...],
        *,
        plain: bool,
        ca_file: Path | None,
        netrc_file: Path | None,
        stall_seconds: float,
    ) -> None:
        """`plain`: http:// is allowed too. `ca_file`: trusted besides the system's. `netrc_file`: users and passwords
        by host. `stall_seconds`: for the next byte."""
        self._hosts = hosts
        self._schemes = frozenset({"https", "http"} if plain else {"https"})
        self._ca_file = ca_file
        self._netrc_file = netrc_file
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=CONNECT_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=stall_seconds
        )
        self._stall_seconds = stall_seconds

    @contextlib.asynccontextmanager
    async def open(self, uri: str, file: str, offset: int = 0) -> AsyncIterator[Opened]:
        """See `Source`."""
        url = URL(join(uri, file, quote(file)), encoded=True)
        connector = aiohttp.TCPConnector(ssl=await asyncio.to_thread(_trust, self._ca_file))
        async with aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            try:
                response = await self._follow(session, url, file, offset)
                try:
                    start = _start(response, file, offset)
                    yield Opened(start, self._chunks(response, file))
                finally:
                    response.close()
            except TimeoutError:
                raise FetchError(
                    Reason.FETCH_FAILED, f"{_shown(url)}: nothing came for {self._stall_seconds:g} s", file
                ) from None
            except (aiohttp.ClientError, OSError) as error:
                raise FetchError(Reason.FETCH_FAILED, f"{_shown(url)}: {_why(error)}", file) from error

    async def _follow(self, session: aiohttp.ClientSession, url: URL, file: str, offset: int) -> aiohttp.ClientResponse:
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        for _ in range(MAX_REDIRECTS + 1):
            self._check(url, file)
            given = await asyncio.to_thread(self._credentials, url.host or "")
            response = await session.get(url, headers=headers | given, allow_redirects=False)
            if response.status not in _REDIRECTS:
                _check_status(response, url, file, with_credentials=bool(given))
                return response
            target = response.headers.get("Location", "")
            response.close()
            try:
                url = url.join(URL(target, encoded=True))
            except ValueError:
                raise FetchError(Reason.FETCH_FAILED, f"{_shown(url)} redirects to no URL", file) from None
        raise FetchError(Reason.FETCH_NOT_ALLOWED, f"{_shown(url)}: more than {MAX_REDIRECTS} redirects", file)

    def _check(self, url: URL, file: str) -> None:
        if url.scheme not in self._schemes:
            raise FetchError(
                Reason.FETCH_NOT_ALLOWED,
                f"{_shown(url)}: {url.scheme or 'no scheme'}:// isn't allowed (--allow-http, WINDLASS_ALLOW_HTTP)",
                file,
            )
        if not allowed(url.host or "", url.port, self._hosts):
            raise FetchError(
                Reason.FETCH_NOT_ALLOWED,
                f"{_shown(url)}: the fetcher may not ask {url.authority or 'no host'}; allow it with --allow-host "
                "(WINDLASS_ALLOW_HOST)",
                file,
            )

    def _credentials(self, host: str) -> dict[str, str]:
        """The header with a host's name and password. Read anew, since they may have been rotated."""
        if self._netrc_file is None:
            return {}
        try:
            found = netrc.netrc(self._netrc_file).hosts.get(host)
        except (OSError, netrc.NetrcParseError) as error:
            why = error.strerror if isinstance(error, OSError) else "it isn't in netrc's form"
            message = f"the credentials in {self._netrc_file} can't be read: {why}"
            raise FetchError(Reason.FETCH_DENIED, message) from None
        if found is None:
            return {}
        user, _, password = found
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}

    async def _chunks(self, response: aiohttp.ClientResponse, file: str) -> AsyncIterator[bytes]:
        try:
            async for chunk in response.content.iter_chunked(_CHUNK):
                yield chunk
        except TimeoutError:
            raise FetchError(
                Reason.FETCH_FAILED, f"{_shown(response.url)}: nothing came for {self._stall_seconds:g} s", file
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise FetchError(Reason.FETCH_FAILED, f"{_shown(response.url)}: {_why(error)}", file) from error


def _check_status(response: aiohttp.ClientResponse, url: URL, file: str, *, with_credentials: bool) -> None:
    status = response.status
    if status in {200, 206}:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise FetchError(Reason.FETCH_FAILED, f"{_shown(url)} sends it compressed, which wasn't asked for", file)
        return
    response.close()
    said = f"{_shown(url)} answered {status}"
    if status in {401, 403}:
        remedy = (
            "it doesn't take the credentials of --netrc-file"
            if with_credentials
            else f"the fetcher has no credentials for {url.host}: give it some with --netrc-file (WINDLASS_NETRC_FILE)"
        )
        raise FetchError(Reason.FETCH_DENIED, f"{said}: {remedy}", file)
    if status in {404, 410}:
        raise FetchError(Reason.NOT_FOUND, f"{said}: there is no such file; is spec.artifact.uri the folder with "
                         "manifest.json in it?", file)  # fmt: skip
    raise FetchError(Reason.FETCH_FAILED, said, file)


def _start(response: aiohttp.ClientResponse, file: str, offset: int) -> int:
    if response.status == 200:
        return 0
    begins = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    if not offset or begins != str(offset):
        raise FetchError(Reason.FETCH_FAILED, f"{_shown(response.url)} answered another part than asked for", file)
    return offset


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """The system's certificates and those of the file, read anew."""
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise FetchError(
                Reason.FETCH_FAILED, f"the certificates in {ca_file} can't be read: {error.strerror or error}"
            ) from error
    return context


def _shown(url: URL) -> str:
    """Without what may be a secret: a redirect's address is often signed."""
    return str(url.with_query(None).with_fragment(None).with_user(None))


def _why(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return (
            f"its certificate isn't trusted ({error.certificate_error}); name its authority's with --source-ca-file "
            "(WINDLASS_SOURCE_CA_FILE)"
        )
    strerror = getattr(error, "strerror", None)
    return strerror or str(error) or type(error).__name__
