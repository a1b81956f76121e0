"""The replica's side of the control protocol: polls its plan and posts its report over one session.

The operator says when it wants the next report, and holds a poll for long. So a poll that got lost on its way would
hide a new plan for long: the answer to each report names the epoch, and one that is news ends such a poll.
Whatever goes wrong is named in `problem`, and tried again: an operator out of reach never stops a replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import ssl
from pathlib import Path
from typing import Protocol, TypeVar

import aiohttp
import structlog

from windlass_contract.control import (
    LONG_POLL_SECONDS,
    PLAN_PATH,
    POLL_SECONDS,
    REPORT_PATH,
    REPORT_SECONDS,
    SAMPLES_PATH,
    SILENCE_SECONDS,
    PlanAnswer,
    ReportAnswer,
    between_reports,
)
from windlass_contract.document import Document, DocumentError, load_json, load_yaml
from windlass_contract.plan import ServingPlan
from windlass_contract.report import ServingReport
from windlass_contract.samples import MAX_SAMPLES_BYTES, AcceptanceSamples
from windlass_server.hosting.host import SamplesUnavailable

log = structlog.get_logger(__name__)

MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 4096
MAX_TOKEN_BYTES = 16 * 1024
ANSWER_SECONDS = 3.0
"""For an answer, beyond the time for which the operator holds it."""
REQUEST_SECONDS = POLL_SECONDS + ANSWER_SECONDS
"""For any request but a poll that may be held for longer."""
BACKOFF_SECONDS = (0.2, 5.0)
"""After the first failure, and at most."""
REFUSED_PAUSE_SECONDS = 1.0
"""After a plan that can't be taken, which the operator would send again at once."""
REPORT_PAUSE_SECONDS = 0.1
"""At least, between reports, however much changes."""

_STARTING = 503

D = TypeVar("D", bound=Document)


class Unanswered(Exception):  # noqa: N818 - it is no fault of this program
    """The operator gave no usable answer: why, for people."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP, if there was an answer."""


class Subscriber(Protocol):
    """Whom a subscription serves."""

    @property
    def plan(self) -> ServingPlan | None:
        """The plan held."""
        ...

    def answered(self, plan: ServingPlan | None, source: str) -> bool:
        """The operator's plan (None: it has none). Gives whether it is the plan held now."""
        ...

    def acknowledged(self, answer: ReportAnswer) -> None:
        """The operator's answer to a report."""
        ...

    def report(self) -> ServingReport:
        """What is true now."""
        ...


class Subscription:
    """Follows one operator for one server, until cancelled."""

    def __init__(
        self,
        url: str,
        server: str,
        instance: str,
        token_file: Path | None,
        ca_file: Path | None,
        subscriber: Subscriber,
        *,
        reports: bool = True,
    ) -> None:
        """`reports`: whether it is a replica, which posts reports, or somebody who only has to know the plan, and hears
        nothing but the answers to its polls."""
        self.url = url.rstrip("/")
        self._server = server
        self._instance = instance
        self._token_file = token_file
        self._ca_file = ca_file
        self._tls = ssl.create_default_context(cafile=ca_file) if self.url.startswith("https:") else None
        self._subscriber = subscriber
        self._hold = LONG_POLL_SECONDS if reports else POLL_SECONDS
        self._work = [self._poll, self._reports, self._silence] if reports else [self._poll, self._silence]
        self._session: aiohttp.ClientSession | None = None
        self._news = asyncio.Event()
        self._report_seconds = REPORT_SECONDS
        """After which the operator wants the next report."""
        self._told_epoch = -1
        """The highest that an answer to a report named."""
        self._present_poll: asyncio.Timeout | None = None
        self._reached = asyncio.Event()
        """A report was answered since the last poll failed."""
        self._last_answer = 0.0
        self.settled = asyncio.Event()
        """The operator said what its plan is, or failed otherwise than by just starting."""
        self.problem = ""
        """Why the operator doesn't answer now; empty when it does."""

    def something_changed(self) -> None:
        """Posts a report as soon as may be."""
        self._news.set()

    async def run(self) -> None:
        """Polls and reports; connects anew after a silence."""
        while True:
            await asyncio.to_thread(self._trust)
            connector = aiohttp.TCPConnector(limit=4, ssl=self._tls if self._tls is not None else True)
            async with aiohttp.ClientSession(connector=connector) as session:
                self._session = session
                self._last_answer = _now()
                tasks = [asyncio.create_task(each()) for each in self._work]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    await next(task for task in tasks if task.done())
                finally:
                    self._session = None
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            log.info("no answer from the operator; connecting anew", seconds=SILENCE_SECONDS, reason=self.problem)
            # Short, however long it lasts already: an operator that comes back gathers for two reports only.
            await asyncio.sleep(_backoff(1))

    async def samples(self, digest: str) -> AcceptanceSamples:
        """Acceptance samples by digest, checked against it. Raises `SamplesUnavailable`."""
        try:
            data = await self._request("GET", SAMPLES_PATH, MAX_SAMPLES_BYTES, digest=digest)
        except Unanswered as error:
            raise SamplesUnavailable(f"the acceptance samples {digest[:19]}… can't be had: {error}") from error
        return await asyncio.to_thread(_parse_samples, data, digest)

    async def _poll(self) -> None:
        attempt = 0
        while True:
            try:
                answer = await self._ask_plan()
            except Unanswered as error:
                self._failed(error)
                if error.status != _STARTING:
                    self.settled.set()
                attempt += 1
                self._reached.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_backoff(attempt)):
                        await self._reached.wait()
                continue
            if answer is None:
                continue
            attempt = 0
            self._heard()
            taken = self._subscriber.answered(answer.plan, self.url)
            self.settled.set()
            if not taken:
                await asyncio.sleep(REFUSED_PAUSE_SECONDS)

    async def _ask_plan(self) -> PlanAnswer | None:
        """The operator's plan, when it isn't the one held or after a while; None: a newer one has been named meanwhile,
        and this poll may have got lost, so that it is to be asked for anew. Raises `Unanswered`.
        """
        held = self._subscriber.plan
        query = {"instance": self._instance, "hold": f"{self._hold:g}"}
        if held is not None:
            query |= {"epoch": str(held.epoch), "digest": held.digest}
        # What is known to be there is not held back.
        hold = POLL_SECONDS if self._told_epoch > _epoch(held) else self._hold
        try:
            async with asyncio.timeout(None) as self._present_poll:
                data = await self._request("GET", PLAN_PATH, MAX_ANSWER_BYTES, query, seconds=hold + ANSWER_SECONDS)
        except TimeoutError:
            return None
        finally:
            self._present_poll = None
        return _parse(PlanAnswer, data, f"the plan of {self.url}")

    def _told(self, epoch: int | None) -> None:
        """An answer to a report named the epoch of the operator's plan; None: it has none."""
        held = _epoch(self._subscriber.plan)
        if epoch is None or epoch <= held:
            # Nothing to wait for, although the poll is held for a while.
            self.settled.set()
        elif epoch > self._told_epoch:
            # Once for each: a poll that began later asks for this one, and may take its time to arrive.
            self._told_epoch = epoch
            if self._present_poll is not None and not self._present_poll.expired():
                self._present_poll.reschedule(_now())

    async def _reports(self) -> None:
        while True:
            try:
                await self._post()
            except Unanswered as error:
                self._failed(error)
            await asyncio.sleep(REPORT_PAUSE_SECONDS)
            try:
                async with asyncio.timeout(between_reports(self._report_seconds) - REPORT_PAUSE_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                pass  # nothing new: a report is due all the same

    async def _post(self) -> None:
        self._news.clear()
        body = json.dumps(self._subscriber.report().to_dict()).encode()
        data = await self._request("POST", REPORT_PATH, MAX_ANSWER_BYTES, body=body)
        answer = _parse(ReportAnswer, data, f"the answer of {self.url} to a report")
        self._heard()
        self._reached.set()
        self._report_seconds = answer.report_seconds
        self._subscriber.acknowledged(answer)
        self._told(answer.epoch)

    async def _silence(self) -> None:
        """Ends when there was no answer for too long."""
        while True:
            left = self._last_answer + SILENCE_SECONDS - _now()
            if left <= 0:
                return
            await asyncio.sleep(left)

    def _heard(self) -> None:
        self._last_answer = _now()
        if self.problem:
            log.info("the operator answers again", operator=self.url)
            self.problem = ""

    def _failed(self, error: Unanswered) -> None:
        if str(error) != self.problem:
            log.warning("the operator gives no answer", operator=self.url, reason=str(error))
        self.problem = str(error)
        if self._report_seconds > REPORT_SECONDS:
            # Whoever answers next may have just started, and decides by what it hears within two normal reports.
            self._report_seconds = REPORT_SECONDS
            self._news.set()

    async def _request(
        self,
        method: str,
        path: str,
        limit: int,
        query: dict[str, str] | None = None,
        *,
        body: bytes | None = None,
        digest: str = "",
        seconds: float = REQUEST_SECONDS,
    ) -> bytes:
        """The body of a 200 of at most `limit` bytes. Raises `Unanswered`."""
        if self._session is None:
            raise Unanswered(f"there is no connection to the operator at {self.url}")
        headers = {"Authorization": f"Bearer {await asyncio.to_thread(self._token)}"} if self._token_file else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = self.url + path.format(server=self._server, digest=digest)
        timeout = aiohttp.ClientTimeout(total=seconds, connect=3.0)
        try:
            async with self._session.request(
                method, url, params=query, data=body, headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                data = await _read(response, limit if response.status == 200 else MAX_ERROR_BYTES)
                if response.status == 200:
                    return data
                raise Unanswered(_refusal(response.status, data, self.url), response.status)
        except TimeoutError:
            raise Unanswered(f"the operator at {self.url} didn't answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            raise Unanswered(f"the operator at {self.url} is out of reach: {why}") from error

    def _trust(self) -> None:
        """Reads the CA file anew: it may have been rotated. One that can't be read changes nothing."""
        if self._tls is None or self._ca_file is None:
            return
        try:
            self._tls = ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:  # ssl.SSLError is one
            log.warning("the operator's CA file can't be read; the one before is trusted", reason=str(error))

    def _token(self) -> str:
        """The control token, read anew: it may have been rotated."""
        path = self._token_file
        if path is None:
            return ""
        try:
            with path.open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES + 1).strip()
        except OSError as error:
            raise Unanswered(f"the control token file {path} can't be read: {error.strerror}") from error
        if not token or len(token) > MAX_TOKEN_BYTES or any(byte <= 32 or byte > 126 for byte in token):
            raise Unanswered(f"the control token file {path} holds no token: one line of printable ASCII is expected")
        return token.decode("ascii")


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        data += chunk
        if len(data) > limit:
            if response.status != 200:
                break
            raise Unanswered(f"an answer of {response.url} has more than {limit} bytes")
    return bytes(data[:limit])


def _refusal(status: int, data: bytes, url: str) -> str:
    """The operator's words, if it has some, with what a person can do."""
    try:
        words = str(json.loads(data)["error"])[:500]
    except (ValueError, TypeError, KeyError):
        words = "no reason given"
    hint = {
        401: "; is --control-token-file the token of this operator?",
        403: "; the control token is another server's: correct --server or --control-token-file",
        404: "; is --operator the address of the control endpoint (port 8010)?",
    }.get(status, "")
    return f"the operator at {url} answered {status}: {words}{hint}"


def _parse(kind: type[D], data: bytes, source: str) -> D:
    try:
        return kind.parse_json(data, source, MAX_ANSWER_BYTES)
    except DocumentError as error:
        raise Unanswered(str(error)) from error


def _parse_samples(data: bytes, digest: str) -> AcceptanceSamples:
    source = f"the acceptance samples {digest[:19]}…"
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != digest:
        raise SamplesUnavailable(f"{source} arrived with other bytes ({found[:19]}…); they are fetched again")
    try:
        # People write them as YAML or JSON; JSON of this size is read a hundred times faster by its own parser.
        is_json = data.lstrip()[:1] == b"{"
        value = load_json(data, source, MAX_SAMPLES_BYTES) if is_json else load_yaml(data, source, MAX_SAMPLES_BYTES)
        return AcceptanceSamples.parse(value, source)
    except DocumentError as error:
        raise SamplesUnavailable(str(error)) from error


def _epoch(plan: ServingPlan | None) -> int:
    """Of a plan; lower than any, of none."""
    return plan.epoch if plan is not None else -1


def _backoff(attempt: int) -> float:
    """Seconds to wait: longer after each failure, and each replica differently."""
    first, last = BACKOFF_SECONDS
    return min(first * 2.0 ** max(attempt - 1, 0), last) * random.uniform(0.5, 1.5)  # noqa: S311


def _now() -> float:
    return asyncio.get_running_loop().time()
