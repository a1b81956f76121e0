"""The live view: server, model, version, and of each version all that moves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text
from rich.tree import Tree

from windlass_cli.sources.source import SeenEvent, SeenVersion, Snapshot
from windlass_contract.model_version import ConditionStatus, ConditionType, GateEvidence, ModelVersionStatus
from windlass_contract.plan import PlannedVersion
from windlass_contract.record import Phase, ServerState

from . import words

EVENTS_SHOWN = 6
_SAME = 40
"""Characters; what has more of them in common says the same."""
_SETTLED = {"Superseded", "Retired", "Previous"}
_FIGURES = {"Acceptance", "ErrorRate", "Latency", "Agreement"}
"""Gates whose figure matters even when they pass."""
_RESULTS = {"Passed": ("✔", "green"), "Failed": ("✖", "red"), "Undecided": ("…", "yellow")}


def live_view(snapshot: Snapshot, now: datetime, only: str | None = None, height: int | None = None) -> RenderableType:
    """`only`: the name of the one ModelVersion to show, with those of its model. `height`: lines there are; what
    doesn't fit is left out from the events first."""
    shown = snapshot.versions
    if only is not None and (chosen := snapshot.version(only)) is not None and chosen.document is not None:
        spec = chosen.document.spec
        shown = tuple(
            each
            for each in shown
            if each.document is not None
            and (each.document.spec.server, each.document.spec.model) == (spec.server, spec.model)
        )
    parts: list[RenderableType] = [*_servers(snapshot, shown, now, everything=only is None)]
    parts.extend(Text(f"✖ {each.name}: {each.problem}", "red") for each in shown if each.document is None)
    parts.extend(Text(f"⚠ {problem}", "yellow") for problem in snapshot.problems)
    if not parts:
        parts.append(Text("no ModelVersion here; `windlass pack` makes one", "dim"))
    names = {each.name for each in shown}
    events = [each for each in snapshot.events if only is None or each.model_version in names]
    told = [each.status.message for each in shown if each.status is not None]
    return _Fitted(Group(*parts), [_event(each, now, told) for each in reversed(events[-EVENTS_SHOWN:])], height)


class _Fitted:
    """The tree, and as many of the newest events as there is room for; at least one."""

    def __init__(self, tree: RenderableType, events: list[Text], height: int | None) -> None:
        self._tree = tree
        self._events = events
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        inner = options.update(height=None)
        tree = console.render_lines(self._tree, inner, pad=False)
        room = self._height or len(tree) + 10 * EVENTS_SHOWN
        events: list[list[Segment]] = []
        for event in self._events:
            made = console.render_lines(event, inner, pad=False)
            if events and len(tree) + 1 + len(events) + len(made) > room:
                break
            events.extend(made)
        keep = max(1, room - len(events) - 1)
        yield from _segments(tree[:keep])
        if len(tree) > keep:
            yield Text("… there is more than fits; name one: windlass watch NAME", "dim")
        elif events:
            yield Text("Events, newest first", "bold")
        yield from _segments(events)


def _segments(lines: list[list[Segment]]) -> Iterator[Segment]:
    for line in lines:
        yield from line
        yield Segment.line()


def _servers(
    snapshot: Snapshot, shown: tuple[SeenVersion, ...], now: datetime, *, everything: bool
) -> Iterator[RenderableType]:
    models: dict[str, dict[str, list[SeenVersion]]] = defaultdict(lambda: defaultdict(list))
    for each in shown:
        if each.document is not None:
            models[each.document.spec.server][each.document.spec.model].append(each)
    if everything:
        for server, state in snapshot.states.items():
            for model in state.plan.models if state.plan else {}:
                models[server][model]
    for server in sorted(models):
        tree = Tree(_server_line(server, snapshot))
        for model in sorted(models[server]):
            _add_model(tree, server, model, models[server][model], snapshot, now)
        yield tree


def _server_line(server: str, snapshot: Snapshot) -> Text:
    state = snapshot.states.get(server)
    text = Text.assemble(("server ", "dim"), (server, "bold"))
    if state is not None and state.plan is not None:
        text.append(f"  epoch {state.plan.epoch}", "dim")
    reports = snapshot.reports.get(server)
    if reports is not None:
        ready = sum(report.ready for report in reports)
        text.append(f"  {ready} of {len(reports)} replicas ready", "green" if ready == len(reports) else "yellow")
    return text


def _add_model(
    tree: Tree, server: str, model: str, versions: list[SeenVersion], snapshot: Snapshot, now: datetime
) -> None:
    branch = tree.add(Text.assemble(("model ", "dim"), (model, "bold")))
    planned = _planned(snapshot.states.get(server), model)
    known = {each.document.spec.version for each in versions if each.document is not None}
    for each in versions:
        _add_version(branch, each, snapshot, now)
    for version in sorted(set(planned) - known, reverse=True):
        weight = planned[version].weight
        text = Text.assemble((f"○ v{version}", "bold yellow"), f"  serving {words.share(weight)}, no ModelVersion")
        _add_replicas(branch.add(text), server, model, version, snapshot)


def _planned(state: ServerState | None, model: str) -> dict[int, PlannedVersion]:
    plan = state.plan.models.get(model) if state and state.plan else None
    return {each.version: each for each in plan.versions} if plan else {}


def _add_version(branch: Tree, seen: SeenVersion, snapshot: Snapshot, now: datetime) -> None:
    assert seen.document is not None
    spec, status = seen.document.spec, seen.status
    style = words.style_of(seen.phase)
    head = Text.assemble(
        (f"{words.mark_of(seen.phase)} v{spec.version}", f"bold {style}"), "  ", (seen.phase, f"bold {style}")
    )
    if status is not None and (status.weight or seen.phase not in _SETTLED):
        head.append(f"  {words.bar(status.weight)} {words.share(status.weight)}", style if status.weight else "dim")
    head.append(f"  {seen.name}", "dim")
    node = branch.add(head)
    if status is None:
        node.add(Text("no operator has looked at it yet", "dim"))
        return
    if seen.phase not in _SETTLED:
        counts = status.replicas
        line = f"{counts.desired} desired, {counts.prepared} prepared, {counts.committed} committed"
        node.add(Text.assemble(("replicas: ", "dim"), line))
    _add_steps(node, seen, snapshot)
    if status.message:
        node.add(Text(status.message, "red" if style == "red" else "yellow" if seen.phase == "Stalled" else ""))
    _add_replicas(node, spec.server, spec.model, spec.version, snapshot)
    _add_evidence(node, status)
    if seen.phase not in _SETTLED and status.way_back:
        node.add(Text.assemble(("way back: ", "dim"), status.way_back))
    for each in status.conditions:
        stalled = each.type is ConditionType.STALLED and each.status is ConditionStatus.TRUE
        if stalled and not _is_told(each.message, [status.message]):
            since = words.age(each.last_transition_time or "", now)
            node.add(Text(f"{each.type.value} for {since} ({each.reason}): {each.message}", "yellow"))


def _add_steps(node: Tree, seen: SeenVersion, snapshot: Snapshot) -> None:
    """Those done, the one it is at, and those to come; and what a person can do about a pause."""
    assert seen.document is not None
    spec = seen.document.spec
    record = snapshot.record(spec.server, spec.model)
    rollout = record.rollout if record is not None else None
    if rollout is None or rollout.candidate.version != spec.version:
        return
    if spec.rollout.steps:
        line = Text("steps: ", "dim")
        for index, each in enumerate(spec.rollout.steps):
            sign, style = (
                ("✔", "green")
                if index < rollout.step
                else ("▶", "bold cyan")
                if index == rollout.step
                else ("○", "dim")
            )
            line.append(f"{sign} {words.step(index + 1, each)}  ", style)
        node.add(line)
    waiting = rollout.phase is Phase.STEPPING and rollout.step < len(spec.rollout.steps)
    if rollout.paused:
        node.add(Text(f"somebody paused it: windlass resume {seen.name}", "yellow"))
    elif waiting and spec.rollout.steps[rollout.step].pause is not None:
        node.add(Text(f"to let it go on: windlass approve {seen.name}", "yellow"))


def _add_replicas(node: Tree, server: str, model: str, version: int, snapshot: Snapshot) -> None:
    for report, each in snapshot.in_replicas(server, model, version):
        bad = each.failure is not None
        line = Text.assemble((f"{report.replica}: ", "dim"), (words.replica_state(each), "red" if bad else ""))
        if report.models[model].lagging:
            line.append("  lagging", "yellow")
        node.add(line)


def _add_evidence(node: Tree, status: ModelVersionStatus) -> None:
    """Gates that passed everywhere share a line; of the others each replica's evidence has one."""
    passed = Text("gates: ", "dim")
    gates: dict[str, list[GateEvidence]] = defaultdict(list)
    for each in status.evidence:
        gates[each.gate].append(each)
    for gate, found in gates.items():
        if all(each.result == "Passed" for each in found):
            passed.append(f"✔\N{NO-BREAK SPACE}{gate}  ", "green")
            if gate in _FIGURES and found[0].statistic:
                passed.append(f"{found[0].statistic}  ")
    if len(passed) > len("gates: "):
        node.add(passed)
    for each in status.evidence:
        if each.result != "Passed":
            sign, style = _RESULTS[each.result]
            where = f" on {each.replica}" if each.replica else ""
            said = "" if _is_told(each.statistic, [status.message]) else f": {each.statistic}"
            node.add(Text.assemble((f"{sign} {each.gate}", style), said, where))


def _is_told(message: str, others: Sequence[str]) -> bool:
    """Whether one of them begins or goes on as it does, so that it would only repeat it."""
    return not message or any(message[:_SAME] in each for each in others)


def _event(event: SeenEvent, now: datetime, told: Sequence[str]) -> Text:
    """Shortened where the tree says the same in full."""
    style = "yellow" if event.type == "Warning" else ""
    message = event.message
    if len(message) > _SAME and _is_told(message, told):
        message = f"{message[:_SAME].rsplit(' ', 1)[0]} …"
    return Text.assemble(
        (f"{words.clock(event.at)} {words.age(event.at, now):>4} ", "dim"),
        (event.reason, f"bold {style}".strip()),
        f" {event.model_version or event.server}: {message}",
        overflow="fold",
    )
