"""The driver dies by SIGKILL at each of its writes in turn. Another is started, and every rollout ends as it does when
nobody dies.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from windlass_testing.evidence import measured

AT_ONCE = 10
"""Runs side by side: most of their time is waiting."""
MANY = 10_000
WAYS = ("before", "between", "after")
SOAK = bool(os.environ.get("WINDLASS_SOAK"))
"""Each write in each way; otherwise each write in one way, taking turns."""
WRONG = {"gate": "Acceptance", "reason": "AcceptanceFailed", "message": "score 0.100, wanted 1.000"}

Run = dict[str, Any]


class Scenario:
    """A first version, a second, a wrong one, a file renamed, a decision, a deletion: and what it comes to."""

    def __init__(self, stage: Any, nursery: Any) -> None:
        self.stage, self.workspace, self.nursery = stage, stage.workspace, nursery

    def play(self, at: int, when: str, settled: Callable[[Run], bool]) -> tuple[Run, list[str]]:
        """The end state, and the writes of the process that was to be killed at its write number `at`."""
        space = self.workspace
        space.write("m-1", 1)
        written = space.folder.with_name("written")
        written.touch()
        first = self.stage.dying_operator(self.nursery, at, when, written)
        self.stage.revive_after(
            first, lambda: self.stage.dying_operator(self.nursery, 0, "", written.with_name("written-then"))
        )
        replica = self.stage.replica()
        replica.failures[3] = WRONG
        space.await_committed(1)
        space.write("m-2", 2)
        space.await_committed(2)
        space.write("m-3", 3)
        space.await_phase("m-3", "Quarantined")
        space.decide("m-2", "undo", 2)
        space.await_committed(1)
        (space.folder / "m-3.yaml").unlink()
        self.stage.until(lambda: space.status("m-3") == {}, lambda: space.status("m-3"))
        self.stage.until(lambda: settled(self.end()), self.end)
        code = first.stop()
        assert code in {0, -signal.SIGKILL}
        killed = code != 0
        writes = written.read_text().splitlines()
        assert killed == (len(writes) >= at), writes
        assert 3 not in replica.committed
        assert replica.epochs == sorted(set(replica.epochs))
        assert not list(space.state.rglob("*.windlass-tmp")) or not killed
        return self.end(), writes

    def end(self) -> Run:
        """What the durable object and the statuses say, without what differs from run to run: epochs and times."""
        durable = self.workspace.durable()
        record = durable.get("record", {}).get("models", {}).get("m", {})
        names = sorted(path.stem for path in (self.workspace.state / "status").glob("[!.]*.yaml"))
        return {
            "plan": self.workspace.model(),
            "record": {key: record.get(key) for key in ("quarantine", "holds", "pinned", "decisions")},
            "committed": (record.get("committed") or {}).get("digest"),
            "outcomes": [(each["version"], each["outcome"]) for each in record.get("verdicts", [])],
            "statuses": {name: _timeless(self.workspace.status(name)) for name in names},
        }


def _timeless(status: Run) -> Run:
    conditions = [{**each, "lastTransitionTime": ""} for each in status.get("conditions", [])]
    return {**status, "conditions": conditions}


def _quiet(run: Run) -> bool:
    return run["plan"].get("candidate") is None and "m-2" in run["statuses"]


@pytest.mark.timeout(900)
@pytest.mark.evidence
def test_a_driver_killed_at_any_write_changes_nothing_about_the_end(
    tmp_path: Path, new_stage: Callable[[Path], Any], nursery: Any
) -> None:
    folders = (tmp_path / str(number) for number in itertools.count())

    def play(at: int, when: str, settled: Callable[[Run], bool]) -> tuple[Run, list[str]]:
        folder = next(folders)
        folder.mkdir()
        stage = new_stage(folder)
        try:
            return Scenario(stage, nursery).play(at, when, settled)
        except AssertionError as error:
            raise AssertionError(f"killed {when} write {at}: {error}") from error
        finally:
            stage.close()

    expected, writes = play(MANY, "before", _quiet)
    files = {re.sub(r"^\d+ ", "", line) for line in writes}
    assert {"servers/cats.json", "status/m-2.yaml", "tokens/cats", "state/objects.json", "state/events.jsonl"} <= files

    def right(run: Run) -> bool:
        return run == expected

    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [
            pool.submit(play, at, when, right)
            for at in range(1, len(writes) + 1)
            for when in (WAYS if SOAK else WAYS[at % 3 :: 3])
        ]
        for run in runs:
            run.result()
    ways = "before, in and after each" if SOAK else "before, in or after each in turn"
    measured(
        "operator-killed",
        f"directory driver killed with SIGKILL {ways} of its {len(writes)} writes in two commits, a rejection, "
        "a rename, an undo and a deletion",
        f"{len(runs)} of {len(runs)} runs ended as the undisturbed one",
        "make soak" if SOAK else "make evidence",
    )
