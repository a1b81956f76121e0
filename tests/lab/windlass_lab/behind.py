"""Which of the lab's versions are behind, asked of the Go module proxy."""

from __future__ import annotations

import json

from windlass_lab.commands import run
from windlass_lab.errors import CommandError, LabError
from windlass_lab.home import Home
from windlass_lab.tools import Go
from windlass_lab.versions import ROOT, Versions


def report(home: Home, versions: Versions) -> str:
    """A table: module, ours, the newest published one, and whether they differ.

    A major version has a path of its own, so this shows new minors and patches. Raises `LabError` without Go.
    """
    go = Go(home, versions)
    command = go.command()
    if command is None:
        raise LabError("`make lab-versions` asks with Go, and there is none; `make lab` gets one")
    rows = [("module", "ours", "newest", "")]
    for module, ours in versions.modules.items():
        newest = _newest(module, command=str(command), environment=go.environment())
        rows.append((module, ours, newest or "?", "" if newest in (ours, None) else "behind"))
    rows.append(("go", versions.go, "", ""))
    images = (versions.debian, versions.python, versions.node, *versions.extra_images.values())
    rows.extend(("image", image, "", "") for image in images)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def _newest(module: str, *, command: str, environment: dict[str, str]) -> str | None:
    """The newest version that the proxy has; None when it doesn't say."""
    folder = ROOT / "modules" / "cni"  # any module will do: the question names the other by path
    try:
        answer = run(
            command, "list", "-m", "-json", f"{module}@latest", environment=environment, folder=folder, timeout=60
        )
    except CommandError:
        return None
    return str(json.loads(answer)["Version"])
