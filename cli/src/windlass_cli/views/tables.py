"""Plain tables, as kubectl prints them: they fit into a pipe as well as into a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.text import Text

from windlass_cli.sources.source import SeenVersion, Snapshot

from . import words

DESCRIBED_EVENTS = 15


def versions_table(versions: Sequence[SeenVersion], *, wide: bool) -> list[Text]:
    """A line for each version; `wide`: with digest, way back and message."""
    heads = ["NAME", "SERVER", "MODEL", "VERSION", "PHASE", "WEIGHT", "REPLICAS"]
    if wide:
        heads += ["STEP", "DIGEST", "WAY BACK", "MESSAGE"]
    rows = [heads]
    for each in versions:
        spec, status = each.document.spec if each.document else None, each.status
        row = [
            each.name,
            spec.server if spec else "-",
            spec.model if spec else "-",
            str(spec.version) if spec else "-",
            each.phase,
            words.share(status.weight) if status else "-",
            words.replicas(status),
        ]
        if wide:
            message = each.problem or (status.message if status else "")
            row += [
                (status.step if status else "") or "-",
                words.short(status.digest if status else None),
                (status.way_back if status else "") or "-",
                " ".join(message.split()) or "-",
            ]
        rows.append(row)
    return columns(rows, phase=heads.index("PHASE"))


def columns(rows: Sequence[Sequence[str]], phase: int | None = None) -> list[Text]:
    """Aligned columns, the first row as heads. `phase`: the column to colour by its word."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        line = Text()
        for index, cell in enumerate(row):
            text = cell if index == len(row) - 1 else cell.ljust(widths[index] + 2)
            line.append(text, "bold" if number == 0 else words.style_of(cell) if index == phase else "")
        lines.append(line)
    return lines


def description(seen: SeenVersion, snapshot: Snapshot, now: datetime) -> list[Text]:
    """Everything about one version."""
    lines = _facts(seen)
    if seen.document is not None:
        steps = seen.document.spec.rollout.steps
        _section(lines, "Steps", [words.step(index + 1, each) for index, each in enumerate(steps)])
        spec = seen.document.spec
        _section(
            lines,
            "In replicas",
            [
                f"{report.replica}  {words.replica_state(each)}"
                for report, each in snapshot.in_replicas(spec.server, spec.model, spec.version)
            ],
        )
    if seen.status is not None:
        rows = [["TYPE", "STATUS", "AGE", "REASON", "MESSAGE"]] + [
            [
                each.type.value,
                each.status.value,
                words.age(each.last_transition_time or "", now),
                each.reason,
                " ".join(each.message.split()),
            ]
            for each in seen.status.conditions
        ]
        _section(lines, "Conditions", [str(line) for line in columns(rows)] if len(rows) > 1 else [])
        gates = [["GATE", "RESULT", "REPLICA", "EVIDENCE"]] + [
            [each.gate, each.result, each.replica or "-", each.statistic or "-"] for each in seen.status.evidence
        ]
        _section(lines, "Gates", [str(line) for line in columns(gates)] if len(gates) > 1 else [])
        _section(
            lines,
            "Decisions",
            [
                f"{each.at or '-'}  {each.action} by {each.by or 'somebody'}: {each.outcome or 'taken'}  ({each.id})"
                for each in seen.status.decisions
            ],
        )
    events = [each for each in snapshot.events if each.model_version == seen.name][-DESCRIBED_EVENTS:]
    _section(
        lines,
        "Events",
        [f"{words.clock(each.at)}  {each.type}  {each.reason}  {each.message}" for each in events] or ["none"],
    )
    return lines


def _facts(seen: SeenVersion) -> list[Text]:
    spec, status = seen.document.spec if seen.document else None, seen.status
    facts = [("Name", seen.name), ("File", seen.origin)]
    if spec is not None:
        facts += [("Server", spec.server), ("Model", spec.model), ("Version", str(spec.version))]
        facts += [("Wanted", spec.state.value), ("Artifact", spec.artifact.uri)]
    facts.append(("Phase", seen.phase))
    if seen.problem:
        facts.append(("Problem", seen.problem))
    if status is not None:
        counts = status.replicas
        facts += [
            ("Message", " ".join(status.message.split())),
            ("Digest", status.digest or (spec.artifact.digest if spec else "") or ""),
            ("Step", status.step),
            ("Weight", words.share(status.weight)),
            ("Replicas", f"{counts.desired} desired, {counts.prepared} prepared, {counts.committed} committed"),
            ("Way back", status.way_back),
        ]
    else:
        facts.append(("Status", "none yet: no operator has looked at it"))
    width = max(len(key) for key, _ in facts) + 2
    return [
        Text.assemble((f"{key}:".ljust(width), "bold"), (value, words.style_of(value) if key == "Phase" else ""))
        for key, value in facts
        if value
    ]


def _section(lines: list[Text], title: str, content: list[str]) -> None:
    if content:
        lines.append(Text(f"{title}:", "bold"))
        lines.extend(Text(f"  {each}") for each in content)
