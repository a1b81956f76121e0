"""`replicas/<server>.json`: what the subscribed replicas report, for people to look at while a rollout runs.

Nothing reads it back, so it needn't survive a loss of power; it is only never seen half-written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from windlass_contract.control import SUBSCRIBED_SECONDS
from windlass_operator.engine.interface import SeenReport

BETWEEN_WRITES_SECONDS = 1.0
_CHANGES_ALWAYS = ("sequence", "plan")


class ReplicaFiles:
    """Blocks for the time of a small write."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._written: dict[str, tuple[float, list[dict[str, Any]]]] = {}

    def show(self, server: str, reports: Iterable[SeenReport]) -> bool:
        """Writes what changed, at most once a second; the next pass takes what had to wait. Returns whether it wrote.
        Raises `OSError`.
        """
        now = self._clock()
        shown = [_without_noise(each) for each in reports if each.age <= SUBSCRIBED_SECONDS]
        shown.sort(key=lambda report: (report["replica"], report["instance"]))
        before = self._written.get(server)
        if before is not None and (before[1] == shown or now - before[0] < BETWEEN_WRITES_SECONDS):
            return False
        path = self._folder / f"{server}.json"
        part = self._folder / f".{server}.json.part"
        part.write_text(json.dumps(shown, ensure_ascii=False))
        part.replace(path)
        self._written[server] = (now, shown)
        return True


def _without_noise(seen: SeenReport) -> dict[str, Any]:
    """A report without its plan, which stands in the durable object, and without what changes with every report."""
    report = {key: value for key, value in seen.report.to_dict().items() if key not in _CHANGES_ALWAYS}
    models = {
        name: {
            **model,
            "versions": [
                {key: value for key, value in version.items() if key not in {"counters", "memoryBytes"}}
                for version in model.get("versions", [])
            ],
        }
        for name, model in report.get("models", {}).items()
    }
    return {**report, "sequence": 0, "models": models}
