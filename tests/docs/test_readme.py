"""Every command of the README does what the README says, on the machine as it is, in the order of the page."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from windlass_testing.one_machine import wait_until
from windlass_testing.pages import ROOT, commands

pytestmark = pytest.mark.default_ports

README = ROOT / "README.md"
BY_THEMSELVES = {"make demo", "make test"}
"""`make demo` is run by the fixture, left running at the end; `make test` runs this."""
NEED_AN_ENGINE = ("One container", "Three replicas with Docker Compose")
"""Sections whose commands `make e2e` and `make soak` run."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`make demo KEEP=1`, done and still running; gives its output's file."""
    output = tmp_path_factory.mktemp("demo") / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            # As in a terminal: what a shell starts in the background ignores Ctrl-C, and so does what that starts.
            ["env", "--default-signal=INT", "make", "demo", "KEEP=1"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )

    def running_or_ended() -> bool:
        return process.poll() is not None or "Ctrl-C ends it" in output.read_text(errors="replace")

    try:
        wait_until("the demo is through", running_or_ended, 400, lambda: output.read_text(errors="replace")[-3000:])
        assert process.poll() is None, output.read_text(errors="replace")[-6000:]
        yield output
    finally:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if process.poll() is None:
            for child in children.read_text().split():
                os.kill(int(child), signal.SIGINT)
        assert process.wait(60) == 0, output.read_text(errors="replace")[-3000:]


@pytest.mark.timeout(600)
def test_every_command_of_the_readme_works_as_written(demo: Path) -> None:
    said = demo.read_text(errors="replace")
    assert "requests lost" in said
    elsewhere = {command for section in NEED_AN_ENGINE for command in commands(README, section)} | BY_THEMSELVES
    for command in commands(README):
        if command in elsewhere:
            continue
        done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
        assert '"error"' not in done.stdout, f"$ {command}\n{done.stdout}"
        assert done.stdout.strip(), f"$ {command} said nothing"


def test_the_readme_links_to_pages_that_are_there() -> None:
    import re

    for page in [README, *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_ci_runs_lint_and_the_readmes_test_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "make lint" in lines
    assert "make test" in lines
    assert "make test" in commands(README)
