"""What the control endpoint answers with: a driver fills it, subscribers wait on it.

All of it happens on one event loop; nothing here blocks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from windlass_contract.control import (
    POLL_SECONDS,
    QUIET_REPORT_SECONDS,
    REPORT_SECONDS,
    SUBSCRIBED_SECONDS,
    ReportAnswer,
)
from windlass_contract.plan import MAX_REPORTED_EPOCH, ServingPlan
from windlass_contract.report import ServingReport
from windlass_operator.engine.interface import SeenReport

from .registry import Registry
from .wording import Wording

_AFTER_BEAT_SECONDS = 0.02
"""Reports are wanted a little after the beat: one from a clock that is fast would miss it, and be asked for again."""


class NotActingError(Exception):
    """This operator can't answer for the server now; the message says why."""


class EpochTooHighError(Exception):
    """A report follows a plan that no operator can have made; the message says which."""


class _Channel:
    """One server."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.registry = Registry(clock)
        self.plan: ServingPlan | None = None
        self.known: tuple[ServingPlan, dict[str, Any]] | None = None
        """`plan`, and its content as it goes out."""
        self.sure = False
        """Whether `plan` is to be shown."""
        self.confirmed: float | None = None
        """When hold and epoch were last confirmed."""
        self.renewed: tuple[int, tuple[str, ...]] | None = None
        self.quiet = False
        """Whether nothing is under way: then reports are only to say that somebody is there."""
        self.samples: Mapping[str, bytes] = {}
        self.changed = asyncio.Event()

    def wake(self) -> None:
        """Lets everybody who waits look again."""
        self.changed.set()
        self.changed = asyncio.Event()


class Hub:
    """Plans out, reports in, for all servers."""

    def __init__(
        self,
        on_news: Callable[[str], None] = lambda _server: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._channels: dict[str, _Channel] = {}
        self._inactive = "this operator has just started"
        self.on_news = on_news
        """Called with the server's name when a report said something new."""

    # What a driver does.

    def act(self) -> None:
        """From now on this operator acts."""
        self._inactive = ""

    def rest(self, why: str) -> None:
        """From now on it doesn't: all polls end with 503, and what was known of the servers is forgotten."""
        self._inactive = why
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.sure = False
            channel.wake()

    def open(self, server: str) -> None:
        """Takes reports for a server. Its plan is not shown before `publish`."""
        self._channels.setdefault(server, _Channel(self._clock))

    def close(self, server: str) -> None:
        """Forgets a server, of which there is nothing left."""
        channel = self._channels.pop(server, None)
        if channel is not None:
            channel.sure = False
            channel.wake()

    def publish(
        self, server: str, plan: ServingPlan | None, renewed: tuple[str, ...] = (), *, quiet: bool = False
    ) -> None:
        """Shows a plan (None: that there is none) to all subscribers, at once. The durable write was acknowledged.
        `quiet`: nothing changes by time alone, and no weight has to be renewed."""
        channel = self._channels[server]
        news = not channel.sure or channel.plan != plan
        if plan is not channel.plan:
            channel.known = (plan, plan.to_dict()) if plan is not None else None
        channel.plan, channel.sure, channel.quiet = plan, True, quiet and not renewed
        channel.renewed = (plan.epoch, renewed) if plan is not None and renewed else None
        if news:
            channel.wake()

    def withhold(self, server: str) -> None:
        """Shows no plan for now: the operator isn't sure of it."""
        channel = self._channels[server]
        channel.sure = False
        channel.wake()

    def confirm(self, server: str, age: float = 0.0) -> None:
        """The hold, and that the durable object still has the plan's epoch, were confirmed `age` seconds ago."""
        self._channels[server].confirmed = self._clock() - age

    def offer_samples(self, server: str, samples: Mapping[str, bytes]) -> None:
        """Acceptance samples by digest, instead of those offered before."""
        self._channels[server].samples = samples

    def reports(self, server: str) -> tuple[SeenReport, ...]:
        """What was heard of a server's instances."""
        return self._channels[server].registry.reports()

    def subscribed(self, server: str) -> int:
        """How many instances are subscribed."""
        channel = self._channels.get(server)
        return channel.registry.subscribed() if channel else 0

    # What the endpoint does.

    def repeated(self, server: str, wording: Wording) -> ServingReport | None:
        """The report that is worded so, if it is the last one of its instance but for the sequence."""
        channel = self._channels.get(server)
        return channel.registry.repeated(wording) if channel is not None else None

    def take_report(self, server: str, report: ServingReport, wording: Wording | None = None) -> ReportAnswer:
        """Remembers a report, and answers it. While the operator gathers the report counts, although the answer is
        `NotActingError`. Raises `RegistryFullError`, `EpochTooHighError`.
        """
        channel = self._channel(server)
        known = channel.plan.epoch if channel.plan is not None else 0
        if report.plan is not None and report.plan.epoch > max(MAX_REPORTED_EPOCH, known):
            raise EpochTooHighError(
                f"replica {report.replica!r} reports a plan of epoch {report.plan.epoch}; above {MAX_REPORTED_EPOCH} "
                "none is taken from a report: remove plan.json from the replica's state folder and restart it"
            )
        if channel.registry.take(report, wording):
            self.on_news(server)
        self._acting(server)
        after = _until_beat(self._clock()) if channel.quiet and _settled(channel, report) else REPORT_SECONDS
        if channel.plan is None:
            return ReportAnswer(epoch=None, report_seconds=after)
        renewed = channel.renewed
        models = list(renewed[1]) if renewed and renewed[0] == channel.plan.epoch else []
        return ReportAnswer(epoch=channel.plan.epoch, renewed=models, report_seconds=after)

    def with_plan_known(self, server: str, report: object) -> tuple[object, ServingPlan | None]:
        """A decoded report, without its plan if that is word for word the one shown; and that. It needs no new check,
        and to read it anew and sum up its digest is most of what a quiet replica's report costs. From any thread.
        """
        channel = self._channels.get(server)
        known = channel.known if channel is not None else None
        if known is None or not isinstance(report, dict) or report.get("plan") != known[1]:
            return report, None
        return {key: value for key, value in report.items() if key != "plan"}, known[0]

    async def next_plan(
        self, server: str, epoch: int | None, digest: str | None, hold: float = POLL_SECONDS
    ) -> ServingPlan | None:
        """The plan, as soon as it isn't the one named; the same after about `hold` seconds. Raises `NotActingError`."""
        started = self._clock()
        hold = hold_to_beat(started, hold)
        while True:
            channel = self._acting(server)
            plan = channel.plan
            left = _patience(plan, epoch, digest, hold) - (self._clock() - started)
            if left <= 0:
                return plan
            try:
                async with asyncio.timeout(left):
                    await channel.changed.wait()
            except TimeoutError:
                return self._acting(server).plan

    def samples(self, server: str, digest: str) -> bytes | None:
        """Acceptance samples by digest. Raises `NotActingError`."""
        return self._channel(server).samples.get(digest)

    def _channel(self, server: str) -> _Channel:
        if self._inactive:
            raise NotActingError(self._inactive)
        channel = self._channels.get(server)
        if channel is None:
            raise NotActingError(f"this operator doesn't know server {server!r} yet")
        return channel

    def _acting(self, server: str) -> _Channel:
        channel = self._channel(server)
        if not channel.sure:
            raise NotActingError("this operator has just started and still hears what the replicas hold")
        if channel.confirmed is None or self._clock() - channel.confirmed > SUBSCRIBED_SECONDS:
            raise NotActingError("this operator couldn't confirm its hold on the durable state lately")
        return channel


def _settled(channel: _Channel, report: ServingReport) -> bool:
    """Whether nothing is waited for from a replica: it has come to the plan that is shown, and isn't leaving."""
    shown = (channel.plan.epoch, channel.plan.digest) if channel.plan is not None else None
    follows = (report.plan.epoch, report.plan.digest) if report.plan is not None else None
    return follows == shown and not report.plan_conflict and not report.draining


def _until_beat(now: float) -> float:
    """Seconds after which a quiet replica is to report next. All come at the same moments: one by one, each would find
    processor caches that others have filled meanwhile, and cost three times as much. A hundred at once take some 30 ms.
    """
    left = QUIET_REPORT_SECONDS - now % QUIET_REPORT_SECONDS + _AFTER_BEAT_SECONDS
    return round(min(max(left, REPORT_SECONDS), QUIET_REPORT_SECONDS), 3)


def hold_to_beat(now: float, hold: float) -> float:
    """Seconds for which a poll is held, so that those of all replicas end when their reports come, and find warm caches
    too. Those that are held for long end a little early."""
    early = (now + hold - _AFTER_BEAT_SECONDS) % QUIET_REPORT_SECONDS
    return hold - early if hold > 2 * QUIET_REPORT_SECONDS else hold


def _patience(plan: ServingPlan | None, epoch: int | None, digest: str | None, hold: float) -> float:
    """Seconds to wait for something better than `plan` for who holds the one named.

    A plan that it has to refuse (an older one, or the same epoch with another digest) is no news to anybody: it is
    held back for one report, by which the operator finds out and makes a newer one, rather than sent in a hot loop.
    """
    held = (epoch, digest) if epoch is not None else None
    offered = (plan.epoch, plan.digest) if plan is not None else None
    if held == offered:
        return hold
    if plan is not None and epoch is not None and plan.epoch <= epoch:
        return REPORT_SECONDS
    return 0.0
