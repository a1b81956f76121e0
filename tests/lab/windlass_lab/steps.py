"""Steps: each is skipped when it is done, timed when it isn't, and taken up again after an interruption."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from windlass_lab.home import Home, State, duration


def fingerprint(*parts: str | Path) -> str:
    """A sum over texts and over files and folders (by relative path and content), in the order given."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            files = sorted(file for file in part.rglob("*") if file.is_file()) if part.is_dir() else [part]
            for file in files:
                name = file.relative_to(part).as_posix() if part.is_dir() else file.name
                total.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        else:
            total.update(part.encode() + b"\0")
    return total.hexdigest()[:32]


@dataclass(frozen=True)
class Step:
    """One step. `done` looks and changes nothing; `act` makes it so, and may be interrupted and called again."""

    name: str
    done: Callable[[], bool]
    act: Callable[[], None]


def take(steps: Iterable[Step], home: Home, state: State | None = None) -> float:
    """Takes the steps in order and says what it does. Returns the seconds it took, all in all.

    How long each took is kept in `state`, if one is given.

    A step that isn't done any more after it acted is the lab's own mistake and raises AssertionError.
    """
    steps = list(steps)
    began = time.monotonic()
    for number, step in enumerate(steps, 1):
        label = f"[{number:2}/{len(steps)}] {step.name}"
        if step.done():
            sys.stderr.write(f"{label}: there\n")
            continue
        sys.stderr.write(f"{label} …\n")
        start = time.monotonic()
        step.act()
        took = time.monotonic() - start
        assert step.done(), f"the step {step.name!r} acted and isn't done"
        if state is not None:
            state.seconds[step.name] = round(took, 1)
            state.write(home)
        sys.stderr.write(f"{label}: done in {duration(took)}\n")
    return time.monotonic() - began


def table(seconds: dict[str, float]) -> str:
    """How long each step took when it last ran, for people."""
    width = max((len(name) for name in seconds), default=0)
    lines = [f"  {name:<{width}}  {duration(took):>13}" for name, took in seconds.items()]
    return "\n".join([*lines, f"  {'all':<{width}}  {duration(sum(seconds.values())):>13}"])
