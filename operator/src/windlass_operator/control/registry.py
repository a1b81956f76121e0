"""Who is subscribed: the last report of each instance, and when it was received."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from windlass_contract.control import SUBSCRIBED_SECONDS
from windlass_contract.report import ServingReport, VersionReport
from windlass_operator.engine.interface import SeenReport

from .wording import Wording

FORGET_SECONDS = 300.0
"""An instance that was silent for so long is gone. Long enough for its counters to have been looked at."""
MAX_INSTANCES = 5000
"""Of one server; more is damage or an attack."""


class RegistryFullError(Exception):
    """More instances report than a server can have."""


@dataclass
class _Entry:
    report: ServingReport
    received: float
    first: float
    wording: bytes | None = None
    """Of the report as it came; see `Wording.digest`."""


class Registry:
    """The instances of one server."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._worded: dict[bytes, _Entry] = {}
        """By wording."""

    def repeated(self, wording: Wording) -> ServingReport | None:
        """The report that is worded so, without reading it; None: that isn't known."""
        entry = self._worded.get(wording.digest)
        return entry.report.model_copy(update={"sequence": wording.sequence}) if entry is not None else None

    def take(self, report: ServingReport, wording: Wording | None = None) -> bool:
        """Remembers a report, which came in this wording; returns whether it says something new. One that was overtaken
        on its way by a later one of the same instance is not taken. Raises `RegistryFullError`.
        """
        now = self._clock()
        if wording is not None and wording.sequence != report.sequence:
            wording = None  # what caught the eye was another number
        entry = self._entries.get(report.instance)
        if entry is None:
            self._forget(now)
            if len(self._entries) >= MAX_INSTANCES:
                raise RegistryFullError(f"{MAX_INSTANCES} instances of this server have reported already")
            entry = self._entries[report.instance] = _Entry(report, now, now)
            self._word(entry, wording)
            return True
        if report.sequence < entry.report.sequence:
            return False
        news = now - entry.received > SUBSCRIBED_SECONDS
        if wording is None or wording.digest != entry.wording:
            news = news or _substance(report) != _substance(entry.report)
            self._word(entry, wording)
        entry.report, entry.received = report, now
        return news

    def reports(self) -> tuple[SeenReport, ...]:
        """The last report of each instance that was heard of within `FORGET_SECONDS`."""
        now = self._clock()
        self._forget(now)
        return tuple(
            SeenReport(entry.report, max(0.0, now - entry.received), max(0.0, now - entry.first))
            for entry in self._entries.values()
        )

    def subscribed(self) -> int:
        """How many instances are subscribed now."""
        now = self._clock()
        return sum(now - entry.received <= SUBSCRIBED_SECONDS for entry in self._entries.values())

    def _forget(self, now: float) -> None:
        for instance in [name for name, entry in self._entries.items() if now - entry.received > FORGET_SECONDS]:
            self._word(self._entries.pop(instance), None)

    def _word(self, entry: _Entry, wording: Wording | None) -> None:
        if entry.wording is not None:
            del self._worded[entry.wording]
        entry.wording = wording.digest if wording is not None else None
        if entry.wording is not None:
            self._worded[entry.wording] = entry


def _substance(report: ServingReport) -> object:
    """All of a report but what changes all the time: its sequence, the counters, memory, and less than a tenth of
    progress."""
    plan = report.plan
    return (
        (plan.epoch, plan.digest) if plan else None,
        report.replica,
        report.plan_conflict,
        report.ready,
        report.draining,
        report.fetches,
        {
            name: (
                model.serving,
                model.lagging,
                model.breaker_open,
                [_version_substance(version) for version in model.versions],
            )
            for name, model in report.models.items()
        },
    )


def _version_substance(version: VersionReport) -> object:
    return (
        version.version,
        version.digest,
        version.content_digest,
        version.state,
        None if version.progress is None else int(version.progress * 10),
        version.failure,
        version.gates,
        version.signatures,
        version.restarts,
        version.breaker,
    )
