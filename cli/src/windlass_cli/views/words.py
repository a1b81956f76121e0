"""Small pieces of text that all views share."""

from __future__ import annotations

from datetime import UTC, datetime

from windlass_contract.model_version import ModelVersionStatus, Step
from windlass_contract.report import VersionReport, VersionState

_GOOD = {"Serving", "Previous"}
_BUSY = {"Pending", "Preparing", "Paused", "Stepping", "Committing"}
_BAD = {"Quarantined", "RolledBack", "Conflict", "NotSupported", "Unreadable", "Held"}
ENDS_BADLY = frozenset({*_BAD, "Superseded", "Retired"})
"""Phases that a version doesn't leave by itself, and that aren't what one waits for."""


def style_of(phase: str) -> str:
    """Rich's style for a phase."""
    if phase in _GOOD:
        return "green"
    if phase in _BUSY:
        return "cyan"
    return "red" if phase in _BAD else "yellow" if phase == "Stalled" else "dim"


def mark_of(phase: str) -> str:
    """A sign for a phase, for those who don't see colours."""
    if phase in _GOOD:
        return "✔"
    if phase in _BAD:
        return "✖"
    return {"Paused": "‖", "Stalled": "⚠"}.get(phase, "●" if phase in _BUSY else "○")


def share(weight: int) -> str:
    """Thousandths as a percentage, with a decimal only where there is one."""
    return f"{weight // 10}%" if weight % 10 == 0 else f"{weight / 10:.1f}%"


def bar(weight: int, width: int = 10) -> str:
    """Thousandths as a bar; anything above 0 shows."""
    filled = 0 if weight == 0 else max(1, round(weight * width / 1000))
    return "█" * filled + "░" * (width - filled)


def replicas(status: ModelVersionStatus | None) -> str:
    """Committed, prepared and desired replicas, shortly."""
    if status is None:
        return "-"
    counts = status.replicas
    return f"{counts.committed}/{counts.prepared}/{counts.desired}"


def step(number: int, value: Step) -> str:
    """One step of a rollout in words."""
    what = (
        f"weight {value.weight}" if value.weight else f"shadow {value.shadow}" if value.shadow else "wait for approval"
    )
    if value.pause is not None and (value.weight or value.shadow):
        what += ", then wait for approval"
    return f"{number}. {what}{f' for {value.duration}' if value.duration else ''}"


def replica_state(report: VersionReport) -> str:
    """Where a version is in a replica."""
    text = str(report.state.value)
    if report.progress is not None and report.state is not VersionState.PREPARED:
        text += f" {report.progress:.0%}"
    if report.state is VersionState.PREPARED and report.counters.requests:
        text += f", {report.counters.requests:,} requests"
        p99 = report.counters.latency.quantile(0.99)
        text += f", p99 {p99 * 1000:.1f} ms" if p99 is not None else ""
        text += f", {report.counters.errors:,} errors" if report.counters.errors else ""
    if report.restarts:
        text += f", restarted {report.restarts} times"
    if report.failure is not None:
        text += f": {report.failure.reason}"
    return text


def short(digest: str | None) -> str:
    """A digest as people compare it."""
    return digest.removeprefix("sha256:")[:12] if digest else "-"


def age(at: str, now: datetime) -> str:
    """How long ago an RFC 3339 time was."""
    try:
        then = datetime.fromisoformat(at)
    except ValueError:
        return "?"
    seconds = max(0, int((now - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def clock(at: str) -> str:
    """The time of day of an RFC 3339 time, local."""
    try:
        return datetime.fromisoformat(at).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return at[:8]
