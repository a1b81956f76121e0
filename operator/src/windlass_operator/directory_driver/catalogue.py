"""What the files of the directory come to: the ModelVersions of each server, and what is wrong with which.

Pure. A file that isn't understood never counts as deleted: what it last said holds on, and the set of its server is
frozen until it is mended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from windlass_contract.model_version import ModelVersion


@dataclass(frozen=True)
class Good:
    """A file that holds a ModelVersion."""

    file: str
    digest: str
    model_version: ModelVersion


@dataclass(frozen=True)
class Bad:
    """A file that should hold one and can't be understood."""

    file: str
    digest: str
    """Of its content, or whatever else tells one problem from the next."""
    message: str
    name: str = ""
    """The ModelVersion's name, if that much could be read."""
    server: str = ""
    """Its server, if that much could be read."""


@dataclass(frozen=True)
class Foreign:
    """A file about something else."""

    file: str
    digest: str
    message: str


Entry = Good | Bad | Foreign


@dataclass(frozen=True)
class Remembered:
    """What a file said when it was last accepted."""

    model_version: ModelVersion
    generation: int

    @property
    def name(self) -> str:
        """The ModelVersion's name."""
        return self.model_version.metadata.name

    @property
    def server(self) -> str:
        """The server that the file named."""
        return self.model_version.spec.server


@dataclass(frozen=True)
class Problem:
    """Why a file, or an edit of it, isn't taken."""

    file: str
    name: str
    """Of the ModelVersion whose status says so."""
    message: str
    servers: frozenset[str] | None = None
    """Whose sets it freezes; None: those of all servers."""


@dataclass(frozen=True)
class Catalogue:
    """What holds now."""

    memory: Mapping[str, Remembered] = field(default_factory=dict)
    """By file: the ModelVersions that count."""
    problems: tuple[Problem, ...] = ()
    """Files that aren't understood; they freeze."""
    refused: tuple[Problem, ...] = ()
    """Edits that aren't allowed; the ModelVersion stays what it was, nothing is frozen."""
    foreign: tuple[Foreign, ...] = ()
    unreadable: str = ""
    """Why the whole directory can't be read; freezes all."""

    def model_versions(self, server: str) -> list[tuple[str, Remembered]]:
        """File and ModelVersion, for a server."""
        return sorted((file, each) for file, each in self.memory.items() if each.server == server)

    def servers(self) -> set[str]:
        """Servers that ModelVersions name."""
        return {remembered.server for remembered in self.memory.values()}

    def frozen(self, server: str) -> str:
        """Why the set of a server can't be trusted; empty: it can."""
        if self.unreadable:
            return self.unreadable
        reasons = [
            f"{problem.file}: {problem.message}"
            for problem in self.problems
            if problem.servers is None or server in problem.servers
        ]
        return "; ".join(reasons)[:2000]


def build(
    entries: Iterable[Entry], unsettled: frozenset[str], memory: Mapping[str, Remembered], unreadable: str = ""
) -> Catalogue:
    """The catalogue of a scan. `unsettled`: files of which what is remembered holds for now."""
    if unreadable:
        return Catalogue(memory=dict(memory), unreadable=unreadable)
    good: list[Good] = []
    bad: list[Bad] = []
    foreign: list[Foreign] = []
    for entry in entries:
        if isinstance(entry, Good):
            good.append(entry)
        elif isinstance(entry, Bad):
            bad.append(entry)
        elif entry.file in memory:
            bad.append(
                Bad(
                    entry.file,
                    entry.digest,
                    f"it held a ModelVersion, and now {entry.message}; "
                    "to end one remove its file or say state: Retired",
                )
            )
        else:
            foreign.append(entry)
    good, twice = _one_file_per_name(good, bad, memory)
    bad += twice
    kept = {file: memory[file] for file in {entry.file for entry in bad} | unsettled if file in memory}
    names = {entry.model_version.metadata.name for entry in good}
    # A file that was renamed: the old name is still in its time of grace, and the new one already says the same.
    kept = {file: each for file, each in kept.items() if file not in unsettled or each.name not in names}
    vanished = {
        each.name: each
        for file, each in memory.items()
        if file not in kept and file not in {entry.file for entry in good}
    }
    refused: list[Problem] = []
    for entry in good:
        accepted, problem = _accept(entry, memory.get(entry.file), vanished)
        kept[entry.file] = accepted
        if problem is not None:
            refused.append(problem)
    return Catalogue(kept, tuple(_problem(entry, memory) for entry in bad), tuple(refused), tuple(foreign))


def build_remembered() -> Callable[[Sequence[Entry], frozenset[str], Mapping[str, Remembered], str], Catalogue]:
    """`build`, which gives the last catalogue when it is asked for the same again: nothing changed in the directory."""
    last: tuple[object, Catalogue] | None = None

    def again(
        entries: Sequence[Entry], unsettled: frozenset[str], memory: Mapping[str, Remembered], unreadable: str
    ) -> Catalogue:
        nonlocal last
        asked = (tuple(entries), unsettled, memory, unreadable)
        if last is None or last[0] != asked:
            last = (asked, build(entries, unsettled, memory, unreadable))
        return last[1]

    return again


def _one_file_per_name(
    good: list[Good], bad: list[Bad], memory: Mapping[str, Remembered]
) -> tuple[list[Good], list[Bad]]:
    """Of files that name the same ModelVersion only the one that had the name before counts, if any."""
    files: dict[str, list[str]] = defaultdict(list)
    for entry in good:
        files[entry.model_version.metadata.name].append(entry.file)
    for broken in bad:
        if broken.file in memory:
            files[memory[broken.file].name].append(broken.file)
    alone: list[Good] = []
    twice: list[Bad] = []
    for entry in good:
        name = entry.model_version.metadata.name
        others = [file for file in files[name] if file != entry.file]
        owned = entry.file in memory and memory[entry.file].name == name
        if not others or owned:
            alone.append(entry)
        else:
            twice.append(
                Bad(
                    entry.file,
                    entry.digest,
                    f"metadata.name is {name!r}, as in {', '.join(sorted(others))}: give each ModelVersion a "
                    "name of its own, or remove one of the files",
                    name,
                    entry.model_version.spec.server,
                )
            )
    return alone, twice


def _accept(
    entry: Good, before: Remembered | None, vanished: Mapping[str, Remembered]
) -> tuple[Remembered, Problem | None]:
    """A file's ModelVersion with its generation; of a forbidden edit, what it was, and why."""
    new = entry.model_version
    if before is not None and before.name != new.metadata.name:
        before = None  # another object; who it was is gone
    if before is not None:
        changed = identity_changes(before.model_version, new)
        if changed:
            return before, Problem(
                entry.file,
                before.name,
                f"{entry.file}: {' and '.join(changed)} can't be edited: they say which version this is. Undo the "
                "edit, and write a new file with a new metadata.name and a new spec.version for other files",
                frozenset(),
            )
    else:
        moved = vanished.get(new.metadata.name)
        if moved is not None and not identity_changes(moved.model_version, new):
            before = moved
    if before is None:
        return Remembered(new, 1), None
    grown = before.model_version.spec.to_dict() != new.spec.to_dict()
    return Remembered(new, before.generation + grown), None


def identity_changes(before: ModelVersion, after: ModelVersion) -> list[str]:
    """Which of the fields that identify a version differ, as the user writes them."""
    old, new = before.spec, after.spec
    pairs = {
        "spec.server": (old.server, new.server),
        "spec.model": (old.model, new.model),
        "spec.version": (old.version, new.version),
        "spec.artifact.uri": (old.artifact.uri, new.artifact.uri),
        "spec.artifact.digest": (old.artifact.digest, new.artifact.digest),
    }
    return [f"{name} ({was} → {now})" for name, (was, now) in pairs.items() if was != now]


def _problem(entry: Bad, memory: Mapping[str, Remembered]) -> Problem:
    remembered = memory.get(entry.file)
    servers = {entry.server} if entry.server else set()
    if remembered is not None:
        servers.add(remembered.server)
    name = remembered.name if remembered is not None else entry.name
    return Problem(entry.file, name, entry.message, frozenset(servers) if servers else None)
