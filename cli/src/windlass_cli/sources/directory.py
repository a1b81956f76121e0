"""A directory of ModelVersion files, and the state that the operator's directory driver keeps for it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from pydantic import TypeAdapter, ValidationError

from windlass_cli.errors import UserError
from windlass_cli.packing.folder import write_file
from windlass_contract.decision import DECISION_SUFFIX, Decision
from windlass_contract.document import DocumentError, dump_yaml, load_yaml
from windlass_contract.identifiers import ObjectName
from windlass_contract.model_version import ModelVersion, ModelVersionStatus
from windlass_contract.record import ServerState
from windlass_contract.report import ServingReport

from .source import SeenEvent, SeenVersion, Snapshot

STATE_FOLDER = ".windlass"
MAX_DOCUMENT_BYTES = 1024 * 1024
MAX_STATE_BYTES = 64 * 1024 * 1024
EVENTS_READ = 256 * 1024
"""Bytes of the end of the events' file that are looked at."""

_NAME: TypeAdapter[str] = TypeAdapter(ObjectName)


def _can_be_a_name(value: object) -> TypeGuard[str]:
    try:
        _NAME.validate_python(value)
    except ValidationError:
        return False
    return True


class DirectorySource:
    """Reads what is there now; writes nothing but decisions."""

    def __init__(self, directory: Path, state: Path | None = None) -> None:
        if not directory.is_dir():
            raise UserError(
                f"there is no folder {directory}; name the folder of the ModelVersion files with --directory, or by "
                "the variable WINDLASS_DIRECTORY"
            )
        self._directory = directory
        self._state = state if state is not None else directory / STATE_FOLDER

    @property
    def place(self) -> str:
        """See `Source`."""
        return str(self._directory)

    def snapshot(self) -> Snapshot:
        """See `Source`."""
        problems: list[str] = []
        if not self._state.is_dir():
            problems.append(
                f"no operator has worked on {self._directory} yet: start "
                f"`windlass-operator directory {self._directory}`"
            )
        versions = sorted(self._versions(), key=_order)
        states = dict(self._states(problems))
        return Snapshot(
            tuple(versions), states, self._reports(list(states), problems), tuple(self._events()), tuple(problems)
        )

    def fingerprint(self) -> object:
        """See `Source`."""
        marks = []
        for folder in (self._directory, *(self._state / name for name in ("", "status", "servers", "replicas"))):
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_file():
                            status = entry.stat()
                            marks.append((str(folder), entry.name, status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                marks.append((str(folder), "", 0, 0, 0))
        return tuple(sorted(marks))

    def decide(self, decision: Decision) -> str:
        """See `Source`."""
        path = self._directory / f"{decision.metadata.name}.{decision.spec.id}{DECISION_SUFFIX}"
        write_file(path, dump_yaml(decision.to_dict()))
        return str(path)

    def _versions(self) -> Iterator[SeenVersion]:
        seen = set()
        files = {}
        for path in sorted(self._directory.iterdir()):
            if path.suffix not in {".yaml", ".yml"} or path.name.startswith(".") or path.name.endswith(DECISION_SUFFIX):
                continue
            files[path.stem] = path.name
            version = self._version(path)
            if version is not None:
                seen.add(version.name)
                yield version
        # Where two files have one name the operator speaks of it once; so do files that are gone but not forgotten.
        for path in sorted((self._state / "status").glob("*.yaml")):
            if path.stem not in seen and not path.name.startswith("."):
                # The operator names what it couldn't read by its file, which may be no ModelVersion for us.
                file = files.get(path.stem)
                status = self._status(path.stem)
                problem = "its file is gone" if file is None else status.message if status else ""
                yield SeenVersion(path.stem, None, status, file or "", problem)

    def _version(self, path: Path) -> SeenVersion | None:
        """None: it is no ModelVersion."""
        try:
            value = load_yaml(_read(path, MAX_DOCUMENT_BYTES), str(path), MAX_DOCUMENT_BYTES)
        except (DocumentError, OSError) as error:
            return SeenVersion(path.stem, None, self._status(path.stem), path.name, str(error))
        if not isinstance(value, dict) or value.get("kind") != "ModelVersion":
            return None
        try:
            document = ModelVersion.parse(value, str(path))
        except DocumentError as error:
            metadata = value.get("metadata")
            name = metadata.get("name") if isinstance(metadata, dict) else None
            # What can't be a name the operator calls by the file's.
            name = name if _can_be_a_name(name) else path.stem
            return SeenVersion(name, None, self._status(name), path.name, str(error))
        return SeenVersion(document.metadata.name, document, self._status(document.metadata.name), path.name)

    def _status(self, name: str) -> ModelVersionStatus | None:
        path = self._state / "status" / f"{name}.yaml"
        try:
            value = load_yaml(_read(path, MAX_DOCUMENT_BYTES), str(path), MAX_DOCUMENT_BYTES)
            return ModelVersionStatus.parse(value.get("status") if isinstance(value, dict) else None, str(path))
        except FileNotFoundError:
            return None
        except (DocumentError, OSError) as error:
            return ModelVersionStatus(phase="Unreadable", message=f"its status can't be read: {error}")

    def _states(self, problems: list[str]) -> Iterator[tuple[str, ServerState]]:
        for path in sorted((self._state / "servers").glob("*.json")):
            if path.name.startswith("."):
                continue
            try:
                yield path.stem, ServerState.parse_json(_read(path, MAX_STATE_BYTES), str(path), MAX_STATE_BYTES)
            except FileNotFoundError:
                continue
            except (DocumentError, OSError) as error:
                problems.append(str(error))

    def _reports(self, servers: list[str], problems: list[str]) -> dict[str, tuple[ServingReport, ...]]:
        reports: dict[str, tuple[ServingReport, ...]] = {}
        for server in servers:
            path = self._state / "replicas" / f"{server}.json"
            try:
                values = json.loads(_read(path, MAX_STATE_BYTES))
                values = values if isinstance(values, list) else []
                reports[server] = tuple(ServingReport.parse(value, str(path)) for value in values)
            except FileNotFoundError:
                continue
            except (DocumentError, OSError, ValueError) as error:
                problems.append(f"{path}: {error}")
        return reports

    def _events(self) -> Iterator[SeenEvent]:
        try:
            with (self._state / "events.jsonl").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - EVENTS_READ))
                lines = file.read().splitlines()
        except OSError:
            return
        for line in lines:
            try:
                value = json.loads(line)
                fields = [
                    str(value.get(key, "")) for key in ("at", "server", "modelVersion", "type", "reason", "message")
                ]
            except (ValueError, AttributeError):
                continue  # the first line may be cut, the last one half written
            yield SeenEvent(*fields)


def _read(path: Path, max_bytes: int) -> bytes:
    """At most one byte more than allowed, so that who parses it sees that it is too long."""
    with path.open("rb") as file:
        return file.read(max_bytes + 1)


def _order(version: SeenVersion) -> tuple[str, str, int, str]:
    spec = version.document.spec if version.document else None
    return (spec.server, spec.model, -spec.version, version.name) if spec else ("~", "~", 0, version.name)
