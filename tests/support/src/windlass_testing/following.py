"""A replica that follows the control protocol and loads nothing: the other side of an operator under test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from windlass_contract.canonical import digest_of_bytes
from windlass_contract.control import (
    LONG_POLL_SECONDS,
    REPORT_SECONDS,
    SILENCE_SECONDS,
    ReportAnswer,
    between_reports,
)
from windlass_contract.plan import ServingPlan
from windlass_testing import connections_closed

DEADLINE = 60.0
"""Seconds; generous, since other suites may run on the same cores."""


def wait_until(condition: Callable[[], Any], what: Callable[[], Any] = lambda: "") -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {DEADLINE} s in vain; last seen: {what()}")


class Replica:
    """Follows the plan it is given and reports, as the contract's control protocol says; loads nothing."""

    def __init__(
        self,
        name: str,
        url: Callable[[], str | None],
        token: Callable[[], str],
        server: str,
        trusted: Callable[[], ssl.SSLContext | None] = lambda: None,
        report_seconds: float = 0.1,
    ) -> None:
        """`report_seconds`: in place of the protocol's; longer times that the operator asks for are in proportion."""
        self._haste = report_seconds / REPORT_SECONDS
        self._asked = REPORT_SECONDS
        """Seconds after which the operator wants the next report."""
        self._told_epoch = -1
        self._present_poll: asyncio.Timeout | None = None
        self.name, self.server = name, server
        self._url, self._token, self._trusted = url, token, trusted
        self.refusal = ""
        """The last answer that wasn't a success."""
        self.failures: dict[int, dict[str, Any]] = {}
        """Versions that don't get prepared, and why."""
        self.holding_back: set[int] = set()
        """Versions that take for ever to load."""
        self.plan: ServingPlan | None = None
        self.epochs: list[int] = []
        self.committed: list[int | None] = []
        self.no_plan_told = False
        self.samples: dict[str, bytes] = {}
        self._instance = os.urandom(8).hex()
        self._sequence = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=lambda: connections_closed.run(self._main()), daemon=True)
        self._thread.start()

    def follow(self, url: Callable[[], str | None]) -> None:
        """Speaks to another operator from now on."""
        self._url = url
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end_poll, 0.0)

    def stop(self) -> None:
        wait_until(lambda: self._task is not None)
        assert self._loop is not None
        assert self._task is not None
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(DEADLINE)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        with contextlib.suppress(asyncio.CancelledError):
            self._due = asyncio.Event()
            async with aiohttp.ClientSession() as self._http, asyncio.TaskGroup() as group:
                group.create_task(self._polls())
                group.create_task(self._reports())

    async def _polls(self) -> None:
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS) as self._present_poll:
                    await self._poll()
            except (aiohttp.ClientError, OSError, TimeoutError):
                self._hurry()
            finally:
                self._present_poll = None
            await asyncio.sleep(0.02)

    async def _reports(self) -> None:
        while True:
            self._due.clear()
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    await self._report()
            except (aiohttp.ClientError, OSError, TimeoutError):
                self._hurry()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._haste * between_reports(self._asked)):
                    await self._due.wait()

    def _hurry(self) -> None:
        """There was no answer: whoever gives the next may have just started."""
        if self._asked > REPORT_SECONDS:
            self._asked = REPORT_SECONDS
            self._due.set()

    def _end_poll(self, seconds: float) -> None:
        """Lets the present poll end after so many seconds if it isn't answered."""
        if self._present_poll is not None and not self._present_poll.expired():
            self._present_poll.reschedule(asyncio.get_running_loop().time() + seconds)

    async def _ask(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        url = self._url()
        if url is None:
            raise OSError("there is no operator")
        headers = {"Authorization": f"Bearer {self._token()}"}
        async with self._http.request(
            method,
            f"{url}/control/v1/servers/{self.server}/{path}",
            headers=headers,
            ssl=self._trusted() or True,
            **options,
        ) as answer:
            body = await answer.read()
            if answer.status != 200:
                self.refusal = f"{answer.status} {body.decode(errors='replace')}"
            return answer.status, body

    async def _poll(self) -> None:
        held = f"&epoch={self.plan.epoch}&digest={self.plan.digest}" if self.plan else ""
        status, body = await self._ask("GET", f"plan?hold={LONG_POLL_SECONDS:g}{held}")
        if status != 200:
            self._hurry()
            return
        value = json.loads(body)["plan"]
        self.no_plan_told = value is None
        if value is None:
            return
        plan = ServingPlan.parse(value, "the plan")
        if self.plan is not None and plan.epoch <= self.plan.epoch:
            return
        for model in plan.models.values():
            for planned in model.versions:
                if planned.samples is not None and planned.samples.digest not in self.samples:
                    status, data = await self._ask("GET", f"samples/{planned.samples.digest}")
                    if status == 200:
                        self.samples[planned.samples.digest] = data
        self.plan = plan
        self.epochs.append(plan.epoch)
        committed = plan.models["m"].committed if "m" in plan.models else None
        if not self.committed or self.committed[-1] != committed:
            self.committed.append(committed)
        await self._report()

    async def _report(self) -> None:
        self._sequence += 1
        status, body = await self._ask("POST", "reports", json=self._content())
        if status != 200:
            self._hurry()
            return
        answer = ReportAnswer.parse_json(body, "the answer to a report")
        self._asked = answer.report_seconds
        held = self.plan.epoch if self.plan else -1
        if answer.epoch is not None and answer.epoch > max(held, self._told_epoch):
            # The poll may have got lost on its way.
            self._told_epoch = answer.epoch
            self._end_poll(0.0)
        else:
            self._end_poll(SILENCE_SECONDS)

    def _content(self) -> dict[str, Any]:
        models: dict[str, Any] = {}
        for name, model in (self.plan.models if self.plan else {}).items():
            versions = [self._version(planned.version, planned.digest) for planned in model.versions]
            serving = {str(planned.version): planned.weight for planned in model.versions if planned.weight}
            models[name] = {"versions": versions, "serving": serving}
        return {
            "server": self.server,
            "replica": self.name,
            "instance": self._instance,
            "sequence": self._sequence,
            "plan": self.plan.to_dict() if self.plan else None,
            "ready": self.plan is not None,
            "models": models,
        }

    def _version(self, version: int, of: str) -> dict[str, Any]:
        said = {"version": version, "digest": of, "contentDigest": digest_of_bytes(of.encode())}
        if version in self.failures:
            failure = self.failures[version]
            return {**said, "state": "Failed" if failure["reason"] != "NotFound" else "Waiting", "failure": failure}
        return {**said, "state": "Loading" if version in self.holding_back else "Prepared"}
