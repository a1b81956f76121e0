"""The durable plan: a file that the operator writes (on Kubernetes a mounted ConfigMap), looked at each second.

A ConfigMap is swapped by renaming the link `..data` beside the file, a plain file by renaming another one over it:
both show in the file's own identity once links are followed, and polling works on every file system.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from windlass_contract.document import DocumentError
from windlass_contract.plan import ServingPlan
from windlass_server.following.plan_copy import read_state

POLL_SECONDS = 1.0

_Mark = tuple[str, tuple[int, int, int, int]] | None


class DurablePlan:
    """Reads the file when it changed, and keeps the last good plan. Does blocking I/O: use it in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""
        """Why the file as it is now gives no plan; empty when it does."""
        self._mark: _Mark = None
        self._looked = False
        self._plan: ServingPlan | None = None

    def look(self) -> ServingPlan | None:
        """The last good plan."""
        mark = self._fingerprint()
        if self._looked and mark == self._mark and not self.problem:
            return self._plan
        try:
            plan = read_state(self.path)
            self.problem = "" if plan is not None else f"{self.path} is missing or holds no plan yet"
            self._plan = plan or self._plan
            self._mark, self._looked = mark, True
        except DocumentError as error:
            self.problem = f"{error}; the last good plan stays in force"
        except OSError as error:
            self.problem = f"{self.path} can't be read ({error.strerror}); the last good plan stays in force"
        return self._plan

    def _fingerprint(self) -> _Mark:
        """What changes when the file, or the folder behind `..data`, is replaced."""
        link = ""
        with contextlib.suppress(OSError):
            link = str((self.path.parent / "..data").readlink())
        try:
            status = self.path.stat()
        except OSError:
            return None
        return link, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
