"""One run: passes over all servers in turn, each started fresh, loaded and checked before and after."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from . import servers
from .load import closed_loop, generator, open_loop
from .models import BACKENDS, DONE
from .places import BENCH, MODELS, ROOT, WORK
from .servers import Running, Variant, new_connections
from .workloads import MODEL_OF, TOLERANCE, Message, difference, message, read_answer

OPEN_CONNECTIONS = 64
UNFINISHED = "unfinished.json"
"""In the folder of work, what a run has so far: if it is ended, `--page` can show it."""
CHECKS = 4
"""Times that an answer is checked before and after, each over a connection of its own: a server may have processes that
answer differently."""


@dataclass(frozen=True)
class Amounts:
    """How long and how often. Seconds."""

    passes: int
    warm_up: float
    window: float
    connections: dict[str, tuple[int, ...]]
    """Of the closed loop, by workload."""
    rates: dict[str, tuple[float, ...]]
    """Requests per second of the open loop, by workload."""
    limit_window: float
    limit_ways: int
    """Of using the machine in process, the most promising first."""


FULL = Amounts(
    passes=3,
    warm_up=3,
    window=4,
    connections={"W1": (1, 16, 64), "W1b": (1, 16, 64), "W2": (1, 8, 32), "W3": (1, 4)},
    rates={"W1": (500,), "W2": (50,)},
    limit_window=5,
    limit_ways=3,
)
QUICK = Amounts(
    passes=1,
    warm_up=1,
    window=2,
    connections={"W1": (1, 64), "W1b": (64,), "W2": (8,), "W3": (4,)},
    rates={"W1": (500,)},
    limit_window=2,
    limit_ways=1,
)


class WrongAnswerError(Exception):
    """A server whose answers aren't the model's: its figures mean nothing."""


_FAILURES = (WrongAnswerError, RuntimeError, AssertionError, OSError, httpx.HTTPError, subprocess.TimeoutExpired)
"""Of a server, or of the generator because of it: the others are measured all the same."""


def make_models(models: Path) -> None:
    """Unless they are there."""
    if not (models / DONE).exists():
        print("making the models (a minute)", flush=True)
        subprocess.run(
            [sys.executable, "-m", "windlass_bench.models", str(models)],
            check=True, env={**os.environ, "PYTHONPATH": str(BENCH), "TF_CPP_MIN_LOG_LEVEL": "2"},
        )  # fmt: skip


class Contents:
    """What is sent, and what has to come back."""

    def __init__(self, models: Path = MODELS) -> None:
        self._models = models
        self._answers = np.load(models / "answers.npz")

    def message(self, variant: Variant, workload: str) -> Message:
        """The request for a server."""
        route = variant.routes[workload]
        jpeg = (self._models / "photo.jpg").read_bytes() if workload == "W2" else b""
        return message(route.wire, route.path, self._tensor(workload), jpeg)

    def right(self, workload: str, *, scaled: bool = False) -> Any:
        """The model's own answer. `scaled`: to the image decoded at a fraction of its size."""
        if scaled and workload == "W2":
            return self._answers["cnn_scaled"]
        return self._answers[MODEL_OF[workload]][: len(self._tensor(workload))]

    def scaled_decoding(self) -> dict[str, Any]:
        """What it does to the model's answer."""
        full, scaled = self.right("W2")[0], self.right("W2", scaled=True)[0]
        return {
            "largest score": float(full.max()),
            "largest difference": float(np.abs(scaled - full).max()),
            "same class": bool(full.argmax() == scaled.argmax()),
        }

    def _tensor(self, workload: str) -> Any:
        return np.load(self._models / f"{workload}.npy")

    def check(self, running: Running, variant: Variant, workload: str) -> float:
        """Asks `CHECKS` times and gives by how much the answers differ at most. Raises `WrongAnswerError`."""
        sent = self.message(variant, workload)
        with new_connections() as client:
            return max(self._check(client, running, variant, workload, sent) for _ in range(CHECKS))

    def _check(self, client: httpx.Client, running: Running, variant: Variant, workload: str, sent: Message) -> float:
        answer = client.post(running.url + sent.path, content=sent.body, headers=sent.headers, timeout=60)
        if answer.status_code != 200:
            raise WrongAnswerError(f"{variant.key} {workload}: {answer.status_code} {answer.text[:300]}")
        if not variant.checked:
            return 0.0
        try:
            right = self.right(workload, scaled=variant.scaled)
            found = difference(workload, read_answer(answer.content, answer.headers), right)
        except ValueError as error:
            raise WrongAnswerError(f"{variant.key} {workload}: {error}") from error
        if not found <= TOLERANCE:  # NaN isn't either
            raise WrongAnswerError(f"{variant.key} {workload}: the answer differs by {found:.2g}")
        return found


def run(
    chosen: list[Variant],
    amounts: Amounts,
    *,
    backends: tuple[str, ...] = BACKENDS,
    models: Path = MODELS,
    work: Path = WORK,
) -> dict[str, Any]:
    """The run's document. A server that doesn't come up, or answers wrongly, is told of there and left out. `work`:
    where logs and folders of state go."""
    make_models(models)
    for variant in chosen:
        servers.make_environment(variant)
    document: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="minutes"),
        "machine": machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load before": round(os.getloadavg()[0], 2),
        "generator": generator(),
        "seconds": {"warm_up": amounts.warm_up, "window": amounts.window},
        "servers": {variant.key: servers.describe(variant) for variant in chosen},
        "cells": [], "starts": [], "limits": [], "failures": [],
    }  # fmt: skip
    contents = Contents(models)
    if any(each.scaled for each in chosen):
        document["scaled decoding"] = contents.scaled_decoding()
    turns = [(each, backend) for each in chosen for backend in each.backends if backend in (*backends, "none")]
    for number in range(1, amounts.passes + 1):
        order = turns if number == 1 else random.Random(number).sample(turns, len(turns))  # noqa: S311
        for position, (variant, backend) in enumerate(order, 1):
            print(f"pass {number}, {position} of {len(order)}: {variant.key}, {backend}", flush=True)
            log = work / "logs" / f"{variant.server}-{variant.name}-{backend}.log"
            sent = [contents.message(variant, each) for each in amounts.connections if each in variant.routes]
            try:
                with _started(variant, backend, log, sent, models) as running:
                    _measure(running, variant, backend, number, amounts, contents, document)
            except _FAILURES as error:
                _leave_out(document, {"server": variant.key, "backend": backend, "pass": number}, error)
            (work / UNFINISHED).write_text(json.dumps(document, indent=1) + "\n")
        for backend in backends:
            _limits(backend, number, amounts, document)
    return document


@contextlib.contextmanager
def _started(
    variant: Variant, backend: str, log: Path, sent: list[Message], models: Path = MODELS
) -> Iterator[Running]:
    """As `servers.started`. One that doesn't come up is started once more: some meet races of their own."""
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(servers.started(variant, backend, log, sent, models))
        except servers.NotUpError as error:
            print(f"  once more: {str(error).splitlines()[0]}", flush=True)
            running = stack.enter_context(servers.started(variant, backend, log, sent, models))
        yield running


def check(chosen: list[Variant]) -> list[str]:
    """Starts each server with each backend and compares its answers, without any load. What was wrong."""
    make_models(MODELS)
    contents, wrong = Contents(), []
    for variant in chosen:
        servers.make_environment(variant)
        for backend in variant.backends:
            log = WORK / "logs" / f"check-{variant.server}-{variant.name}-{backend}.log"
            try:
                sent = [contents.message(variant, each) for each in variant.routes]
                with _started(variant, backend, log, sent) as running:
                    off = {each: contents.check(running, variant, each) for each in variant.routes}
            except _FAILURES as error:
                wrong.append(f"{variant.key}, {backend}: {error}")
                print(wrong[-1], flush=True)
            else:
                shown = ", ".join(f"{workload} {difference:.1g}" for workload, difference in off.items())
                print(f"{variant.key}, {backend}: up in {running.start_seconds:.1f} s, off by {shown}", flush=True)
    return wrong


def _measure(
    running: Running,
    variant: Variant,
    backend: str,
    number: int,
    amounts: Amounts,
    contents: Contents,
    document: dict[str, Any],
) -> None:
    place = {"server": variant.key, "backend": backend, "pass": number}
    document["starts"].append({**place, "seconds": running.start_seconds, "memory_mb": running.memory_mb()})
    for workload in (each for each in amounts.connections if each in variant.routes):
        try:
            document["cells"] += _load(running, variant, workload, place, amounts, contents)
        except _FAILURES as error:
            _leave_out(document, {**place, "workload": workload}, error)
    document["starts"][-1]["memory_after_mb"] = running.memory_mb()


def _load(
    running: Running, variant: Variant, workload: str, place: dict[str, Any], amounts: Amounts, contents: Contents
) -> list[dict[str, Any]]:
    """Cells of a workload; none when it answers wrongly before or after. Raises `WrongAnswerError`."""
    off = contents.check(running, variant, workload)
    sent = contents.message(variant, workload)
    levels = amounts.connections[workload]
    closed_loop(running.url, sent, connections=levels[len(levels) // 2], seconds=amounts.warm_up)
    loads = [("closed", float(level)) for level in levels]
    loads += [("open", rate) for rate in amounts.rates.get(workload, ())]
    cells = []
    for loop, level in loads:
        used = running.cpu_seconds()
        if loop == "closed":
            loaded = closed_loop(running.url, sent, connections=int(level), seconds=amounts.window)
        else:
            loaded = open_loop(running.url, sent, rate=level, connections=OPEN_CONNECTIONS, seconds=amounts.window)
        cell = {**place, "workload": workload, "loop": loop, "level": level, **loaded.to_dict(), "difference": off}
        cells.append(cell | {"cpu_seconds": running.cpu_seconds() - used})
        print(
            f"  {workload} {loop} {level:g}: {loaded.requests / loaded.seconds:.0f}/s, p50 {loaded.p50:.2f} ms, "
            f"p99 {loaded.p99:.2f} ms, {loaded.errors} errors",
            flush=True,
        )
    contents.check(running, variant, workload)
    return cells


def _leave_out(document: dict[str, Any], place: dict[str, Any], error: Exception) -> None:
    print(f"  left out: {error}", flush=True)
    document["failures"].append({**place, "why": str(error)[:2000]})


def _limits(backend: str, number: int, amounts: Amounts, document: dict[str, Any]) -> None:
    """What can be done in process."""
    for workload in ("W2", "W3"):
        if workload not in amounts.connections:
            continue
        done = subprocess.run(
            [
                sys.executable, str(BENCH / "limits" / "in_process.py"), str(MODELS), str(MODELS / "photo.jpg"),
                backend, workload, str(amounts.limit_window), str(amounts.limit_ways),
            ],
            env={**os.environ, "PYTHONPATH": str(BENCH), "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"the limit of {workload}, {backend}: {done.stderr[-2000:]}")
        for line in done.stdout.splitlines():
            found = {"backend": backend, "workload": workload, "pass": number, **json.loads(line)}
            document["limits"].append(found)
            print(f"  in process: {line}", flush=True)


def machine() -> str:
    """What it ran on."""
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def commit() -> str:
    """Of this checkout, with a mark when something isn't committed."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
