"""Figures that tests measure, and the page that lists them.

A test that measures calls `measured(...)`. With `WINDLASS_EVIDENCE=1` (`make evidence`) the figure goes to
`docs/evidence.json`, and `docs/evidence.md` is written anew from it; otherwise nothing is written. No figure is written
by hand, and a promise that nothing measured yet is listed as waiting.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import platform
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
FIGURES = ROOT / "docs" / "evidence.json"
PAGE = ROOT / "docs" / "evidence.md"

PROMISES = {
    "nothing-lost": (
        "No request is lost in a rollout, a rollback, the operator's death or a graceful stop with at least two "
        "replicas; the epoch never goes backwards"
    ),
    "sigkill": (
        "On SIGKILL or the loss of a node only requests in flight there fail; each succeeds on retry; no rollout state "
        "is lost"
    ),
    "load-beside": (
        "A version that loads doesn't slow one that serves: p99 of the load window below 1.2 times the window before, "
        "below 3 times under a CPU quota"
    ),
    "memory": "Memory doesn't grow: over 200 swaps within 2 %",
    "rollback": "Rollback to a resident version takes less than 1 s; replicas differ for less than 1 s",
    "bad-artifacts": "A bad artifact never answers a request, by whatever path it is asked",
    "traffic-faults": (
        "A version whose fault only real traffic shows is taken back; no client sees it while the previous one is "
        "resident"
    ),
    "hostile-models": "A hostile model or artifact harms no other version, and never makes the kernel's OOM killer act",
    "abuse": (
        "Abuse costs bounded memory and gets the right status code; others lose nothing and aren't slowed by more than "
        "noise"
    ),
    "operator-killed": (
        "The operator can be killed at any moment, two may run at once, its objects may be deleted, edited or "
        "restored; the rollout still ends right"
    ),
    "operator-cost": (
        "An operator of a hundred replicas needs at most 128 MiB, and less than 1 % of a core while nothing changes"
    ),
    "image-size": (
        "An image holds what serving needs and no more: at most 1.2 GB with TensorFlow, 0.36 GB with LiteRT alone, "
        "0.25 GB for the operator"
    ),
    "image-start": (
        "From `docker run` to ready takes at most 5 s with TensorFlow, 2 s with LiteRT; from one edited line to an "
        "image at most 10 s; two builds give one digest"
    ),
    "start": (
        "A LiteRT replica with one small model is ready after 1 s and takes 150 MB at most, a TensorFlow replica 3 s "
        "after TensorFlow's import"
    ),
    "version-cost": (
        "A second resident TensorFlow version adds at most 150 MB to its weights; many small models cost no more each "
        "than few"
    ),
    "skaffold": "With `skaffold dev` an edited line of the replica is live in its Pod within 10 s",
    "lab": (
        "A container engine and a cluster to test on come up by one command, also where no image can be pulled; a "
        "second start takes less than 5 s"
    ),
}
"""What Windlass promises, by a key of its own."""


def measured(promise: str, what: str, figure: str, command: str) -> None:
    """Keeps a figure. `what`: what was done, with its conditions; `command`: what measures it again.

    Raises `KeyError` for a promise that isn't listed.
    """
    PROMISES[promise]
    print(f"measured: {what}: {figure}")
    if not os.environ.get("WINDLASS_EVIDENCE"):
        return
    date = dt.datetime.now(dt.UTC).date().isoformat()
    folder = os.open(FIGURES.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # tests run side by side
        figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
        figures.setdefault(promise, {})[what] = {"figure": figure, "command": command, "date": date}
        FIGURES.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
        PAGE.write_text(page(figures))
    finally:
        os.close(folder)


def drawn(name: str, text: str) -> None:
    """Keeps a plot, an SVG, in `docs/` beside the page. Written like figures are."""
    if os.environ.get("WINDLASS_EVIDENCE"):
        (FIGURES.parent / f"evidence-{name}.svg").write_text(text)


def page(figures: dict[str, dict[str, dict[str, str]]]) -> str:
    """The page as Markdown."""
    lines = [
        "# Evidence",
        "",
        "What Windlass promises, and what was measured. Written by `make evidence` and by the long runs, not by hand.",
        f"The machine has {os.cpu_count()} cores ({platform.machine()}), which the load generator shares.",
        "",
        "| promise | what was done | figure | measured by | date |",
        "|---|---|---|---|---|",
    ]
    for promise, text in PROMISES.items():
        rows = figures.get(promise, {})
        if not rows:
            lines.append(f"| {text} | *nothing measures it yet* | | | |")
        for position, (what, row) in enumerate(sorted(rows.items())):
            shown = text if position == 0 else ""
            lines.append(f"| {shown} | {what} | {row['figure']} | `{row['command']}` | {row['date']} |")
    for plot in sorted(FIGURES.parent.glob("evidence-*.svg")):
        lines += ["", f"![{plot.stem.removeprefix('evidence-')}]({plot.name})"]
    return "\n".join([*lines, ""])
