"""Looking at the directory: what each file says now.

Editors, copies and volume mounts don't replace files in one go. So new content counts once it was the same for
`SETTLE_SECONDS`, and a file that vanished counts as deleted after `DELETION_SECONDS`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from windlass_contract.canonical import digest_of_bytes
from windlass_contract.decision import DECISION_SUFFIX, Decision
from windlass_contract.document import DocumentError, load_yaml
from windlass_contract.identifiers import GROUP, ObjectName, ServerName
from windlass_contract.model_version import ModelVersion

from .catalogue import Bad, Entry, Foreign, Good
from .files import FileProblemError, read_bounded

MAX_DOCUMENT_BYTES = 256 * 1024
MAX_FILES = 5000
"""ModelVersion and decision files together."""
SETTLE_SECONDS = 0.2
DELETION_SECONDS = 1.0
_SUFFIXES = (".yaml", ".yml")
_SERVER: TypeAdapter[str] = TypeAdapter(ServerName)
_NAME: TypeAdapter[str] = TypeAdapter(ObjectName)


@dataclass(frozen=True)
class BadDecision:
    """A decision file that isn't taken."""

    file: str
    message: str
    digest: str
    """Of its content, so that it is said once."""


@dataclass(frozen=True)
class Scan:
    """The directory at one moment."""

    entries: tuple[Entry, ...] = ()
    """Files that count, by name."""
    unsettled: frozenset[str] = frozenset()
    """Files that are there and never counted yet, or vanished just now: what was known of them holds."""
    decisions: tuple[Decision, ...] = ()
    bad_decisions: tuple[BadDecision, ...] = ()
    unreadable: str = ""
    """Why the directory as a whole can't be read."""
    again_in: float | None = None
    """Seconds after which something will have settled."""


@dataclass
class _Seen:
    digest: str
    since: float
    """Monotonic."""
    accepted: Entry | None = None


@dataclass
class DirectoryScanner:
    """Reads one directory again and again. It blocks: call it off the event loop."""

    folder: Path
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _absent_since: dict[str, float] = field(default_factory=dict)
    _parsed_decisions: dict[tuple[str, str], Decision | str] = field(default_factory=dict)

    def scan(self, known: frozenset[str] = frozenset()) -> Scan:
        """What the directory holds. `known`: files that are remembered from before; they are looked for."""
        now = self.clock()
        try:
            names = self._names()
        except FileProblemError as error:
            return Scan(unsettled=known | self._seen.keys(), unreadable=str(error))
        waits: list[float] = []
        entries: list[Entry] = []
        unsettled: set[str] = set()
        documents = [name for name in names if not name.endswith(DECISION_SUFFIX)]
        for name in documents:
            self._absent_since.pop(name, None)
            entry, wait = self._look(name, now)
            if wait is not None:
                waits.append(wait)
            if entry is None:
                unsettled.add(name)
            else:
                entries.append(entry)
        for name in (known | self._seen.keys()) - set(documents):
            gone_for = now - self._absent_since.setdefault(name, now)
            if gone_for < DELETION_SECONDS:
                waits.append(DELETION_SECONDS - gone_for)
                unsettled.add(name)
            else:
                self._seen.pop(name, None)
        for name in self._absent_since.keys() - known - self._seen.keys():
            del self._absent_since[name]
        decisions, bad = self._decisions([name for name in names if name.endswith(DECISION_SUFFIX)])
        return Scan(tuple(entries), frozenset(unsettled), decisions, bad, "", min(waits, default=None))

    def _names(self) -> list[str]:
        names = []
        try:
            with os.scandir(self.folder) as listing:
                for entry in listing:
                    if entry.name.endswith(_SUFFIXES) and not entry.name.startswith("."):
                        names.append(entry.name)
                        if len(names) > MAX_FILES:
                            raise FileProblemError(
                                f"{self.folder} holds more than {MAX_FILES} YAML files; remove those that are over"
                            )
        except OSError as error:
            raise FileProblemError(f"{self.folder} can't be listed: {error.strerror}; mount or mend it") from error
        return sorted(names)

    def _look(self, name: str, now: float) -> tuple[Entry | None, float | None]:
        """What a file says, and in how many seconds to look again. None: nothing yet."""
        path = self.folder / name
        data: bytes | None = None
        problem = ""
        modified = 0.0
        try:
            data = read_bounded(path, MAX_DOCUMENT_BYTES)
            modified = path.stat().st_mtime
        except FileProblemError as error:
            problem = str(error)
        except OSError:
            problem = "it is listed and isn't there; is it a link to nothing?"
        digest = digest_of_bytes(data) if data is not None else problem
        seen = self._seen.get(name)
        if seen is None or seen.digest != digest:
            age = self.wall_clock() - modified
            first = seen is None
            seen = self._seen[name] = _Seen(digest, now, seen.accepted if seen else None)
            # Old files needn't settle at the start; later each change does, since a copy may carry an old time along.
            if not (first and data is not None and age > SETTLE_SECONDS):
                return seen.accepted, SETTLE_SECONDS
        elif seen.accepted is not None and seen.accepted.digest == digest:
            return seen.accepted, None
        elif now - seen.since < SETTLE_SECONDS:
            return seen.accepted, SETTLE_SECONDS - (now - seen.since)
        seen.accepted = Bad(name, digest, problem) if data is None else parse_file(name, data)
        return seen.accepted, None

    def _decisions(self, names: list[str]) -> tuple[tuple[Decision, ...], tuple[BadDecision, ...]]:
        good: list[Decision] = []
        bad: list[BadDecision] = []
        parsed: dict[tuple[str, str], Decision | str] = {}
        for name in names:
            try:
                data = read_bounded(self.folder / name, MAX_DOCUMENT_BYTES)
            except FileNotFoundError:
                continue
            except FileProblemError as error:
                bad.append(BadDecision(name, str(error), ""))
                continue
            key = (name, digest_of_bytes(data))
            result = self._parsed_decisions.get(key) or parse_decision(name, data)
            parsed[key] = result
            if isinstance(result, Decision):
                good.append(result)
            else:
                bad.append(BadDecision(name, result, key[1]))
        self._parsed_decisions = parsed
        return tuple(good), tuple(bad)


def parse_file(name: str, data: bytes) -> Entry:
    """What the content of a YAML file says."""
    digest = digest_of_bytes(data)
    try:
        value = load_yaml(data, name, MAX_DOCUMENT_BYTES)
    except DocumentError as error:
        return Bad(name, digest, _without_source(error))
    if not isinstance(value, dict):
        return Bad(name, digest, "it holds no YAML mapping; a ModelVersion begins with apiVersion and kind")
    if not _means_model_version(value):
        return Foreign(name, digest, f"its kind is {value.get('kind')!r}")
    try:
        model_version = ModelVersion.parse(value, name)
    except DocumentError as error:
        return Bad(
            name,
            digest,
            _without_source(error),
            _readable(_NAME, value, "metadata", "name"),
            _readable(_SERVER, value, "spec", "server"),
        )
    return Good(name, digest, model_version)


def parse_decision(name: str, data: bytes) -> Decision | str:
    """The decision in a file, or why it isn't taken."""
    try:
        decision = Decision.parse(load_yaml(data, name, MAX_DOCUMENT_BYTES), name)
    except DocumentError as error:
        return _without_source(error)
    expected = f"{decision.metadata.name}.{decision.spec.id}{DECISION_SUFFIX}"
    if name != expected:
        return f"it is named {name}; by metadata.name and spec.id it has to be named {expected}"
    return decision


def _means_model_version(value: dict[str, Any]) -> bool:
    """Whether somebody meant to write a ModelVersion, typing errors allowed; other kinds of files are left alone."""
    api_version, kind, spec = value.get("apiVersion"), value.get("kind"), value.get("spec")
    if kind == "ModelVersion" or (isinstance(api_version, str) and api_version.startswith(f"{GROUP}/")):
        return True
    return isinstance(spec, dict) and {"server", "model"} <= spec.keys()


def _readable(adapter: TypeAdapter[str], value: dict[str, Any], outer: str, inner: str) -> str:
    """A name in a file that is otherwise wrong, if it is a good one."""
    part = value.get(outer)
    try:
        return adapter.validate_python(part.get(inner) if isinstance(part, dict) else None)
    except ValidationError:
        return ""


def _without_source(error: DocumentError) -> str:
    return str(error).removeprefix(f"{error.source}: ").removeprefix("the document: ")[:2000]
