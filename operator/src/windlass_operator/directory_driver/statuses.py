"""`status/<name>.yaml`: what is true of each ModelVersion, written only when it changed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from windlass_contract.document import DocumentError, dump_yaml, load_yaml
from windlass_contract.identifiers import API_VERSION
from windlass_contract.model_version import ModelVersionStatus
from windlass_operator.driving.people import with_transition_times

from .files import FileProblemError, read_bounded, remove, write_atomically

MAX_STATUS_BYTES = 1024 * 1024
FILE_INVALID = "FileInvalid"


class StatusFiles:
    """The status files of all ModelVersions. Blocks; call it off the event loop, by one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, ModelVersionStatus] = {}
        self._given: dict[str, ModelVersionStatus] = {}
        """As given for what is written: the very same again needs no second look."""

    def load(self) -> list[str]:
        """Reads what is there, for its `lastTransitionTime`s and to be tidied up; returns what couldn't be read.
        Raises `OSError`.
        """
        problems = []
        for path in sorted(self._folder.glob("*.yaml")):
            if path.name.startswith("."):
                continue
            try:
                value = load_yaml(read_bounded(path, MAX_STATUS_BYTES), str(path), MAX_STATUS_BYTES)
                inner = value.get("status") if isinstance(value, dict) else None
                self._written[path.stem] = ModelVersionStatus.parse(inner, str(path))
            except (DocumentError, FileProblemError, FileNotFoundError) as error:
                # It is output: it is written anew.
                problems.append(str(error))
                self._written[path.stem] = ModelVersionStatus(message="\0unreadable")
        return problems

    def update(
        self, statuses: Mapping[str, ModelVersionStatus], now: datetime | None = None, *, complete: bool = True
    ) -> list[str]:
        """Makes the files say this and, if it is `complete`, nothing else; returns the names of those that changed.
        Raises `OSError` once all others are written: one that can't be must not keep the rest out of date.
        """
        at = now or datetime.now(UTC)
        changed = []
        problem: OSError | None = None
        for name, status in sorted(statuses.items()):
            before = self._written.get(name)
            if before is not None and self._given.get(name) is status:
                continue
            dated = with_transition_times(status, before.conditions if before else (), at)
            if before is None or dated != before:
                try:
                    write_atomically(self._folder / f"{name}.yaml", render(name, dated))
                except OSError as error:
                    problem = problem or error
                    continue
                self._written[name] = dated
                changed.append(name)
            self._given[name] = status
        for name in sorted(self._written.keys() - statuses.keys()) if complete else ():
            remove(self._folder / f"{name}.yaml")
            del self._written[name]
            self._given.pop(name, None)
            changed.append(name)
        if problem is not None:
            raise problem
        return changed


def render(name: str, status: ModelVersionStatus) -> bytes:
    """The file."""
    value = {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {"name": name},
        "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    return dump_yaml(value).encode()
