"""`make demo`: three versions of a model go to one replica under traffic; the third is wrong and is taken back.

Everything is real and lasts: Keras trains, `windlass pack` packs, `windlass-server` and `windlass-operator` run as they
do for users, with their embedded defaults, in the folder `demo/`. Exits with 0 only if no request was lost and every
version ended as it should.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from windlass_testing.load import Load, Request
from windlass_testing.one_machine import BIN, OneMachine, wait_until

HERE = Path(__file__).parent
MODEL = "digits"
RATE = 100
"""Requests per second."""
COLOURS = {"Serving": "green", "Previous": "cyan", "Superseded": "dim", "Quarantined": "red"}
SETTLE_SECONDS = 4
"""How long each version is watched once it ended up somewhere, so that its figures mean something."""


class DemoError(Exception):
    """Something didn't go as it must; the message says what, and where to look."""


class Demo:
    """One run: its folder, its processes and what is shown of it."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.console = console
        self.folder = folder
        self.machine = OneMachine(folder, server=MODEL, default_ports=True)
        self.step = ""
        self.said: list[str] = []
        self.load: Load | None = None

    # --- before traffic ---

    def train_and_pack(self) -> None:
        """Two honest versions and a wrong one, as artifacts with digests."""
        self._run("Training", [sys.executable, str(HERE / "train.py"), str(self.folder)])
        samples = self.machine.directory / "digits-samples.json"
        shutil.copy(self.folder / "digits-samples.json", samples)
        for version in (1, 2, 3):
            self._run(
                f"Packing v{version}",
                [
                    *(str(BIN / "windlass"), "pack", str(self.folder / f"v{version}.keras")),
                    *("--model", MODEL, "--version", str(version), "--output", str(self.machine.models)),
                    *("--server", MODEL, "--samples", samples.name, "--min-score", "80%"),
                    *("--image", "8x8x1", "--scale", "1/255", "--classes", ",".join("0123456789")),
                    *("--modelversion", str(self.folder / f"digits-{version}.yaml")),
                ],
            )

    def start(self) -> None:
        """The directory driver, one replica, and v1."""
        self.console.print("[bold]Starting[/] windlass-operator (a directory) and windlass-server (one replica)")
        self.machine.operator.start()
        token = self.machine.state / "tokens" / MODEL
        wait_until("the operator made the control token", token.exists, last_seen=self.machine.operator.tail)
        self.replica = self.machine.add_replica()
        self._apply(1)
        began = time.monotonic()
        wait_until("v1 serves", self.replica.ready, 120, self.replica.process.tail)
        self.console.print(f"v1 serves after {time.monotonic() - began:.1f} s (TensorFlow's import included)")

    # --- under traffic ---

    def roll(self) -> None:
        """v1 to v2, then v3, which must be refused, all under constant traffic."""
        samples = json.loads((self.folder / "digits-samples.json").read_text())["samples"]
        (self.folder / "request.json").write_text(json.dumps({"instances": [samples[0]["inputs"]["image"]]}))
        requests = [
            Request(f"/v1/models/{MODEL}:predict", {"instances": [sample["inputs"]["image"]]})
            for sample in samples[:50]
        ]
        with (
            Load(self.replica.url, requests, RATE) as self.load,
            Live(self._view(), console=self.console, refresh_per_second=4, get_renderable=self._view),
        ):
            self.step = "v1 serves"
            self._watch(SETTLE_SECONDS)
            self.step = "v2: load beside v1, warm up, test, commit"
            self._apply(2)
            self._wait("digits-2", "Serving")
            self._watch(SETTLE_SECONDS)
            self.step = "v3 was trained on shuffled labels: it has to fail its acceptance samples"
            self._apply(3)
            self._wait("digits-3", "Quarantined")
            self._watch(SETTLE_SECONDS)
            self.step = "done"

    def summary(self) -> None:
        """The figures. Raises `DemoError` if anything was lost or a version answered that must not."""
        assert self.load is not None
        load = self.load
        versions = sorted({answer.version for answer in load.answers if not answer.lost})
        table = Table(title="What happened", show_header=False)
        table.add_row("requests answered", f"{len(load.answers) - len(load.lost):,}")
        table.add_row("requests lost", f"[bold {'red' if load.lost else 'green'}]{len(load.lost)}[/]")
        table.add_row("versions that answered", ", ".join(f"v{version}" for version in versions))
        table.add_row("latency p50 / p99", f"{load.quantile(0.5) * 1e3:.1f} / {load.quantile(0.99) * 1e3:.1f} ms")
        table.add_row("why v3 was refused", self.machine.status("digits-3").get("message", ""))
        self.console.print(table)
        if load.lost:
            raise DemoError(f"{len(load.lost)} requests were lost, the first: {load.lost[0]}")
        if load.steps_back():
            raise DemoError(f"an answer came under an older epoch than the one before: {load.steps_back()[0]}")
        if versions != ["1", "2"]:
            raise DemoError(f"v1 and v2 were to answer, and no other; answers came from {versions}")

    def invite(self) -> None:
        """Leaves it running until Ctrl-C, and says what to try."""
        url, cli = self.replica.url, _short(BIN / "windlass")
        directory, body = _short(self.machine.directory), _short(self.folder / "request.json")
        self.console.rule("It is running; try these in another terminal. Ctrl-C ends it.")
        # Without a frame, and as long as they are: a command has to be whole to be copied.
        self.console.print(
            f"curl {url}/v1/models/{MODEL}\n"
            f"curl -d @{body} {url}/v1/models/{MODEL}:predict\n"
            f"curl {url}/health\n"
            f"{cli} watch --directory {directory}\n"
            f"{cli} describe digits-3 --directory {directory}\n"
            f"{cli} undo digits-2 --directory {directory}\n"
            f"{url}/docs  in a browser; undo goes back to v1",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
        try:
            signal.pause()
        except KeyboardInterrupt:
            self.console.print("Ending it.")

    # --- helpers ---

    def _run(self, what: str, command: list[str]) -> None:
        """Runs a step of the preparation and passes its lines on. Raises `DemoError`."""
        began = time.monotonic()
        self.console.print(f"[bold]{what}[/]")
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process:
            lines = []
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                if not line.startswith(("WARNING:", "I0000", "E0000", "W0000")):
                    self.console.print(f"  {line.rstrip()}", highlight=False, markup=False)
        if process.returncode:
            raise DemoError(f"{' '.join(command)} ended with {process.returncode}: {' '.join(lines[-5:])}")
        self.console.print(f"  ({time.monotonic() - began:.1f} s)", style="dim")

    def _apply(self, version: int) -> None:
        name = f"digits-{version}.yaml"
        self.said.append(f"dropped {name} in {self.machine.directory}")
        shutil.copy(self.folder / name, self.machine.directory / f".{name}")
        (self.machine.directory / f".{name}").replace(self.machine.directory / name)

    def _watch(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._check_processes()
            time.sleep(0.1)

    def _wait(self, name: str, phase: str) -> None:
        began = time.monotonic()

        def reached() -> bool:
            self._check_processes()
            return bool(self.machine.status(name).get("phase") == phase)

        wait_until(f"{name} is {phase}", reached, 120, lambda: f"{self.machine.status(name)}")
        self.said.append(f"{name}: {phase} after {time.monotonic() - began:.1f} s")

    def _check_processes(self) -> None:
        for process in (self.machine.operator, self.replica.process):
            if not process.running:
                raise DemoError(f"{process.name} ended; its log is {process.log}:\n{process.tail(15)}")

    def _view(self) -> Panel:
        """What the terminal shows now."""
        table = Table(box=None, padding=(0, 3, 0, 0))
        for column in ("version", "phase", "traffic", "answered"):
            table.add_column(column, no_wrap=True, justify="right" if column in {"traffic", "answered"} else "left")
        answers = list(self.load.answers) if self.load else []
        remarks = []
        for version in (1, 2, 3):
            status = self.machine.status(f"digits-{version}")
            if status:
                phase = str(status.get("phase", ""))
                table.add_row(
                    f"[bold]v{version}[/]",
                    f"[{COLOURS.get(phase, 'yellow')}]{phase}[/]",
                    f"{status.get('weight', 0) / 10:g} %",
                    f"{sum(answer.version == str(version) for answer in answers):,}",
                )
                remarks.append(f"[bold]v{version}[/] {escape(str(status.get('message', '')))}")
        figures = ""
        if self.load and answers:
            since = time.monotonic() - 5
            figures = (
                f"[bold]{len(answers):,}[/] requests answered, [bold]{len(self.load.lost)}[/] lost; last 5 s: p50 "
                f"{self.load.quantile(0.5, since) * 1e3:.1f} ms, p99 {self.load.quantile(0.99, since) * 1e3:.1f} ms"
            )
        grid = Table.grid(expand=True)
        grid.add_row(f"[bold cyan]{self.step}[/]")
        grid.add_row(table)
        for line in remarks:
            grid.add_row(line)
        grid.add_row(figures)
        for line in self.said[-4:]:
            grid.add_row(f"[dim]{line}[/]")
        return Panel(grid, title=f"{MODEL}: {RATE} requests a second, one replica, never restarted")


def main() -> int:
    """Runs the demo; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave it running at the end, until Ctrl-C")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything is put (default: demo)")
    arguments = parser.parse_args()
    console = Console()
    folder: Path = arguments.folder.absolute()
    if folder.exists():
        if not (folder / "versions").exists() and any(folder.iterdir()):
            console.print(f"{folder} is there and isn't a demo's; give another with --folder")
            return 2
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    demo = Demo(folder, console)
    began = time.monotonic()
    try:
        demo.train_and_pack()
        demo.start()
        demo.roll()
        demo.summary()
        console.print(f"All of it took {time.monotonic() - began:.0f} s. The logs are in {demo.machine.logs}.")
        if arguments.keep:
            demo.invite()
    except (DemoError, TimeoutError) as error:
        console.print(f"[bold red]The demo failed:[/] {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    finally:
        demo.machine.stop()
    return 0


def _short(path: Path) -> Path:
    """As one types it here: relative, where it lies below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _exit_on_term(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _exit_on_term)
    sys.exit(main())
