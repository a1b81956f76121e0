"""Every command of docs/bring-your-own-model.md, run as written, in one shell, in the order of the page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from windlass_testing.one_machine import free_port
from windlass_testing.pages import ROOT, commands

PAGE = ROOT / "docs" / "bring-your-own-model.md"
MARK = "-- end of command --"


class Shell:
    """One bash that stays, as a person's terminal does: jobs, variables and the folder last from line to line."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self._ports = ports
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
        environment |= {
            "WINDLASS_PORT": str(ports["8000"]),
            "WINDLASS_METRICS_PORT": str(free_port()),
            "WINDLASS_OPERATOR_PORT": str(ports["8010"]),
            "WINDLASS_OPERATOR_METRICS_PORT": str(free_port()),
            "PYTHONWARNINGS": "default",
        }
        self.process = subprocess.Popen(
            ["bash", "--norc", "-m"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Exit code and output. Only the page's default ports are replaced, so that tests can run side by side."""
        for written, free in self._ports.items():
            command = command.replace(f":{written}", f":{free}")
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\necho {MARK} $?\n")
        self.process.stdin.flush()
        said = ""
        for line in self.process.stdout:
            if found := re.search(rf"{MARK} (\d+)$", line.rstrip()):
                return int(found[1]), said + line[: found.start()]
            said += line
        raise AssertionError(f"the shell ended at: {command}\n{said}")

    def close(self) -> None:
        """Ends the shell and what runs in it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        jobs = subprocess.run(
            ["ps", "-o", "pid=", "-s", str(self.process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        for pid in jobs:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """In a folder that looks like the checkout."""
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shell = Shell(tmp_path, {"8000": free_port(), "8010": free_port()})
    yield shell
    shell.close()


@pytest.mark.timeout(420)
def test_each_command_of_the_page_does_what_the_page_says(shell: Shell, tmp_path: Path) -> None:
    answers = []
    for command in commands(PAGE):
        code, said = shell.run(command)
        logs = "\n".join(path.read_text()[-3000:] for path in sorted((tmp_path / "try").glob("*.log")))
        assert code == 0, f"$ {command}\n{said}\n{logs}"
        if command.startswith("curl"):
            answers.append(said)
    before, after = answers
    assert '"version":1' in before
    assert '"class":"7"' in before
    assert '"version":1' in after, "undo brought version 1 back"


def test_the_page_has_the_example_as_it_is() -> None:
    """The function that the page shows is the one that is packed."""
    source = (ROOT / "examples" / "bring-your-own-model" / "prepare.py").read_text()
    shown = re.search(r"^def prepare.*?(?=^```)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert shown is not None
    code = [line for line in source[source.index("def prepare") :].splitlines() if '"""' not in line]
    assert shown[0].splitlines() == code
