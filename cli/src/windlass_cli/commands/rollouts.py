"""`windlass get`, `describe` and `watch`."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live

from windlass_cli.errors import UserError
from windlass_cli.sources.cluster import ClusterSource
from windlass_cli.sources.directory import DirectorySource
from windlass_cli.sources.source import SeenVersion, Snapshot, Source
from windlass_cli.terminal import err, out, screen
from windlass_cli.views import words
from windlass_cli.views.tables import description, versions_table
from windlass_cli.views.tree import live_view
from windlass_contract.document import dump_yaml

from .options import server_name

LOOK_SECONDS = 0.2
"""Between two looks whether something changed. A folder is looked at since it may be on a network's volume, which tells
nobody of its changes."""


class Output(StrEnum):
    """Forms of output."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


Directory = Annotated[
    Path,
    typer.Option(
        "--directory",
        "-d",
        envvar="WINDLASS_DIRECTORY",
        metavar="DIR",
        help="Folder of the ModelVersion files.",
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        "--state", envvar="WINDLASS_STATE", metavar="DIR", help="The operator's own folder. Default: .windlass in DIR."
    ),
]
Space = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        envvar="WINDLASS_NAMESPACE",
        metavar="NAMESPACE",
        help="A namespace of the cluster that kubectl talks to, instead of a folder.",
    ),
]
Form = Annotated[Output, typer.Option("--output", "-o", help="How to print it.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The ModelVersion's name.")]


def open_source(directory: Path, state: Path | None, namespace: str | None) -> Source:
    """Where to read and write. Raises `UserError`."""
    if namespace is not None:
        return ClusterSource(str(server_name(namespace)))
    return DirectorySource(directory, state)


def find(snapshot: Snapshot, name: str, place: str) -> SeenVersion:
    """Raises `UserError` that says which names there are."""
    seen = snapshot.version(name)
    if seen is None:
        names = ", ".join(each.name for each in snapshot.versions) or "none"
        raise UserError(f"there is no ModelVersion {name!r} in {place}; there are: {names}")
    return seen


def get(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this ModelVersion.")] = None,
    directory: Directory = Path(),
    state: State = None,
    namespace: Space = None,
    output: Form = Output.TABLE,
) -> None:
    """List ModelVersions: what serves where, and how far the others are.

    REPLICAS is committed/prepared/desired.
    """
    source = open_source(directory, state, namespace)
    snapshot = source.snapshot()
    versions = list(snapshot.versions) if name is None else [find(snapshot, name, source.place)]
    for problem in snapshot.problems:
        err.print(f"note: {problem}", style="yellow", markup=False)
    if output in {Output.JSON, Output.YAML}:
        documents = [each.to_dict() for each in versions]
        _print_document(
            documents[0] if name is not None else {"apiVersion": "v1", "kind": "List", "items": documents}, output
        )
        return
    if not versions:
        err.print(f"no ModelVersions in {source.place}", markup=False)
        return
    for line in versions_table(versions, wide=output is Output.WIDE):
        out.print(line)
    for each in versions:
        if each.problem:
            err.print(f"{each.name}: {each.problem}", style="red", markup=False)


def describe(
    name: Name,
    directory: Directory = Path(),
    state: State = None,
    namespace: Space = None,
    output: Form = Output.TABLE,
) -> None:
    """Say everything about one ModelVersion: conditions, gates with their evidence, replicas, decisions, events."""
    source = open_source(directory, state, namespace)
    snapshot = source.snapshot()
    seen = find(snapshot, name, source.place)
    if output in {Output.JSON, Output.YAML}:
        _print_document(seen.to_dict(), output)
        return
    for line in description(seen, snapshot, datetime.now(UTC)):
        out.print(line)


def watch(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this one's model.")] = None,
    directory: Directory = Path(),
    state: State = None,
    namespace: Space = None,
    once: Annotated[bool, typer.Option("--once", help="Show it as it is now, and end.")] = False,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="PHASE",
            help="End once NAME is in this phase, e.g. Serving; with exit code 1 when it ends up elsewhere.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="For --until: give up after so long.")] = 600,
) -> None:
    """Show rollouts live, until Ctrl-C: versions, phases, steps, weights, replicas, gates, events.

    Where standard output is no terminal, a line is printed for each change.
    """
    if until is not None and name is None:
        raise typer.BadParameter("--until goes with a NAME")
    source = open_source(directory, state, namespace)
    if name is not None:
        find(source.snapshot(), name, source.place)
    if once:
        screen.print(live_view(source.snapshot(), datetime.now(UTC), name))
        return
    deadline = time.monotonic() + timeout if until is not None else None
    shown = (
        _watch_live(source, name, until, deadline)
        if screen.is_terminal
        else _watch_lines(source, name, until, deadline)
    )
    if until is not None and name is not None:
        _tell_end(shown.version(name), name, until, timeout)


def _watch_live(source: Source, name: str | None, until: str | None, deadline: float | None) -> Snapshot:
    snapshot = source.snapshot()
    mark = source.fingerprint()
    with Live(console=screen, auto_refresh=False, screen=until is None, vertical_overflow="crop") as live:
        drawn = 0.0
        while True:
            if (now := source.fingerprint()) != mark or time.monotonic() - drawn >= 1:
                if now != mark:
                    mark, snapshot = now, source.snapshot()
                drawn = time.monotonic()
                live.update(live_view(snapshot, datetime.now(UTC), name, screen.height - 1), refresh=True)
            if _over(snapshot, name, until, deadline):
                return snapshot
            time.sleep(LOOK_SECONDS)


def _watch_lines(source: Source, name: str | None, until: str | None, deadline: float | None) -> Snapshot:
    snapshot = source.snapshot()
    mark = source.fingerprint()
    said: dict[str, str] = {}
    while True:
        for each in snapshot.versions:
            if name in {None, each.name} and said.get(each.name) != (line := _line(each)):
                said[each.name] = line
                out.print(f"{datetime.now(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}  {line}", markup=False)
        if _over(snapshot, name, until, deadline):
            return snapshot
        while (now := source.fingerprint()) == mark and not (deadline and time.monotonic() > deadline):
            time.sleep(LOOK_SECONDS)
        mark, snapshot = now, source.snapshot()


def _line(seen: SeenVersion) -> str:
    status = seen.status
    parts = [seen.name, seen.phase]
    if status is not None:
        parts += [words.share(status.weight), words.replicas(status), status.step, " ".join(status.message.split())]
    return "  ".join(part for part in [*parts, seen.problem] if part)


def _over(snapshot: Snapshot, name: str | None, until: str | None, deadline: float | None) -> bool:
    if until is None or name is None:
        return False
    seen = snapshot.version(name)
    if seen is None or seen.phase == until or seen.phase in words.ENDS_BADLY:
        return True
    return deadline is not None and time.monotonic() > deadline


def _tell_end(seen: SeenVersion | None, name: str, until: str, timeout: float) -> None:
    """Raises `UserError` unless it is where it was wanted."""
    if seen is None:
        raise UserError(f"{name} is gone: its file was removed")
    if seen.phase == until:
        return
    message = " ".join(seen.status.message.split()) if seen.status else ""
    how = "ended up" if seen.phase in words.ENDS_BADLY else f"after {timeout:g} s is still"
    raise UserError(f"{name} {how} {seen.phase}, not {until}{f': {message}' if message else ''}")


def _print_document(value: Any, output: Output) -> None:
    if output is Output.JSON:
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        typer.echo(dump_yaml(value), nl=False)
