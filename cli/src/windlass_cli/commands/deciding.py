"""`windlass approve`, `pause`, `resume`, `undo` and `clear`."""

from __future__ import annotations

import getpass
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from windlass_cli.errors import UserError
from windlass_cli.sources.source import SeenVersion, Snapshot, Source
from windlass_cli.steering import Intent, intend
from windlass_cli.terminal import err, out
from windlass_contract.decision import Action, Decision
from windlass_contract.identifiers import API_VERSION
from windlass_contract.model_version import DecisionTaken

from .rollouts import LOOK_SECONDS, Directory, Name, Space, State, find, open_source

Wait = Annotated[bool, typer.Option("--wait", help="Wait until the operator has taken it, and say what came of it.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="For --wait: give up after so long.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with the decision.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and decide nothing.")]


def approve(
    name: Name,
    directory: Directory = Path(),
    state: State = None,
    namespace: Space = None,
    wait: Wait = False,
    timeout: Timeout = 30,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Let a rollout go on from the pause that it waits at."""
    _decide(Action.APPROVE, name, open_source(directory, state, namespace), wait, timeout, reason, dry_run)


def pause(
    name: Name,
    directory: Directory = Path(),
    state: State = None,
    namespace: Space = None,
    wait: Wait = False,
    timeout: Timeout = 30,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Stop a rollout where it is; `resume` lets it go on."""
    _decide(Action.PAUSE, name, open_source(directory, state, namespace), wait, timeout, reason, dry_run)


def resume(
    name: Name,
    directory: Directory = Path(),
    state: State = None,
    namespace: Space = None,
    wait: Wait = False,
    timeout: Timeout = 30,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Let a paused rollout go on."""
    _decide(Action.RESUME, name, open_source(directory, state, namespace), wait, timeout, reason, dry_run)


def undo(
    name: Name,
    directory: Directory = Path(),
    state: State = None,
    namespace: Space = None,
    wait: Wait = False,
    timeout: Timeout = 30,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Go back from a version: end its rollout, or let the version before it serve again, at once.

    Its digest is held, so that it doesn't come back by itself; `clear` lifts that.
    """
    _decide(Action.UNDO, name, open_source(directory, state, namespace), wait, timeout, reason, dry_run)


def clear(
    name: Name,
    directory: Directory = Path(),
    state: State = None,
    namespace: Space = None,
    wait: Wait = False,
    timeout: Timeout = 30,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Lift the quarantine or hold of a version, so that it may be rolled out again."""
    _decide(Action.CLEAR, name, open_source(directory, state, namespace), wait, timeout, reason, dry_run)


def _decide(action: Action, name: str, source: Source, wait: bool, timeout: float, reason: str, dry_run: bool) -> None:
    snapshot = source.snapshot()
    seen = find(snapshot, name, source.place)
    intent = intend(action, seen, snapshot)
    decision = make_decision(seen, intent, reason)
    if dry_run:
        out.print(f"would {action.value} {name}: {intent.will}", markup=False)
        return
    where = source.decide(decision)
    out.print(f"{action.value} {name}: {intent.will}", markup=False)
    err.print(f"written to {where}", markup=False)
    if wait:
        taken, now = _wait(source, decision, timeout, where)
        message = f": {' '.join(now.status.message.split())}" if now and now.status and now.status.message else ""
        out.print(f"{taken}; {name} is {now.phase if now else 'gone'}{message}", markup=False)
    else:
        err.print("the operator takes it within a few seconds; see `windlass watch`", markup=False)


def make_decision(seen: SeenVersion, intent: Intent, reason: str) -> Decision:
    """With an id of its own, naming who and when."""
    assert seen.document is not None
    spec, now = seen.document.spec, datetime.now(UTC)
    inner = {
        "id": f"{intent.action.value}-{now.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}",
        "action": intent.action.value,
        "server": spec.server,
        "model": spec.model,
        "version": spec.version,
        "digest": intent.digest,
        "by": _me(),
        "at": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    if intent.step is not None:
        inner["step"] = intent.step
    if reason:
        inner["reason"] = reason
    value = {"apiVersion": API_VERSION, "kind": "Decision", "metadata": {"name": seen.name}, "spec": inner}
    return Decision.parse(value, "the decision")


def _wait(source: Source, decision: Decision, timeout: float, where: str) -> tuple[str, SeenVersion | None]:
    """What came of it, and the version afterwards. Raises `UserError` when the operator doesn't take it in time."""
    deadline = time.monotonic() + timeout
    while True:
        snapshot = source.snapshot()
        seen = snapshot.version(decision.metadata.name)
        if outcome := _outcome(decision, seen, snapshot):
            return outcome, seen
        if time.monotonic() > deadline:
            raise UserError(
                f"no operator has taken it within {timeout:g} s; it stays in {where} and is taken once one looks there "
                f"(is an operator running for {source.place}?), unless you remove it"
            )
        time.sleep(LOOK_SECONDS)


def _outcome(decision: Decision, seen: SeenVersion | None, snapshot: Snapshot) -> str:
    """Empty: not taken yet."""
    taken: list[DecisionTaken] = seen.status.decisions if seen and seen.status else []
    found = next((each for each in taken if each.id == decision.spec.id), None)
    if found is not None:
        return found.outcome or "taken"
    record = snapshot.record(decision.spec.server, decision.spec.model)
    return "taken" if record is not None and decision.spec.id in record.decisions else ""


def _me() -> str:
    try:
        return getpass.getuser()[:256]
    except (KeyError, OSError):
        return ""  # a container's user often has no name
