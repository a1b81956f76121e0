"""The commands in a page of the documentation, to be run as written."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from windlass_testing.one_machine import wait_until

ROOT = Path(__file__).resolve().parents[4]


def commands(page: Path, section: str = "") -> list[str]:
    """Lines that begin with `$ ` in ```console blocks, continued lines joined, in the page's order. `section`: only
    those below `## <section>`. Raises `ValueError` when there is no such section."""
    text = page.read_text()
    if section:
        found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        if found is None:
            raise ValueError(f"{page.name} has no section {section!r}")
        text = found[1]
    return [
        line.removeprefix("$ ")
        for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
        if line.startswith("$ ")
    ]


def run_in_one_shell(
    written: Sequence[str],
    folder: Path,
    patience_seconds: float,
    environment: Mapping[str, str] | None = None,
    options: str = "-eux",
) -> str:
    """Runs the commands in one bash as a reader has it, in `folder`; gives what was printed.

    What they leave running is ended, and has ended when this returns: the next page uses the same ports. Raises
    `AssertionError` with all that was printed, and every `.log` below the folder, when a command failed or
    `patience_seconds` were over.
    """
    output = folder / "output.txt"
    with output.open("wb") as file:
        shell = subprocess.Popen(
            ["bash", *options.split(), "-c", "\n".join(written) + "\n"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    code: int | None = None
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = shell.wait(patience_seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing is left
            os.killpg(shell.pid, signal.SIGTERM)
        wait_until("what the page left running has ended", lambda: not _running(shell.pid), 60)
    printed = output.read_text(errors="replace")
    if code != 0:
        logs = [f"{path.name}:\n{path.read_text(errors='replace')}" for path in sorted(folder.rglob("*.log"))]
        ending = f"not through after {patience_seconds} s" if code is None else f"exit code {code}"
        raise AssertionError("\n".join([ending, printed, *logs]))
    return printed


def _running(group: int) -> list[int]:
    """The group's processes that haven't ended; whether somebody has waited for those that have doesn't matter."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return found
