"""A worker as a resident sees it: its process and its channel together, for as long as both stand."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windlass_contract.health import HEALTH
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.asking import Asked, Asking
from windlass_server.hosting.batch_sizes import FREEZE_BYTES, MOST_ROWS, SLICE_ROWS
from windlass_server.hosting.channel import Answer, WorkerChannel
from windlass_server.hosting.confinement import lacking
from windlass_server.hosting.cpus import available_cpus, cpus_beside_requests, loading_cpus
from windlass_server.hosting.launcher import Launcher, LauncherError, WorkerExit, WorkerProcess
from windlass_server.hosting.memory import Room, own_bytes
from windlass_server.hosting.processes import processor_seconds
from windlass_server.tensors import Tensor, unpacked

_EXIT_SECONDS = 10
"""A process whose channel is closed, or that was killed, ends within this."""


@dataclass(frozen=True)
class ResidentSettings:
    """Times in seconds, sizes in bytes."""

    load_deadline: float = HEALTH.load_deadline
    """From the worker's start until it has loaded, warmed up and passed its samples."""
    start_deadline: float = 120
    """From asking for a worker until it answers; the first of a runtime waits for the framework's import."""
    threads: int = field(default_factory=available_cpus)
    """Requests that a worker runs at a time."""
    max_batch_size: int = MOST_ROWS
    """Of one row each that it runs together at most."""
    slice_rows: int = SLICE_ROWS
    """Rows of a large request that it runs at a time; 0: all of them."""
    freeze_bytes: int = FREEZE_BYTES
    """Of variables that may be made constants; 0: none."""
    preparing_cpus: float | None = field(default_factory=loading_cpus)
    """Processors' worth of time for a version that is prepared while another serves; None: any, but the next."""
    preparing_cpus_beside_requests: float = field(default_factory=cpus_beside_requests)
    """The same for one that is prepared while requests come to another."""
    max_request_bytes: int = 256 * 1024 * 1024
    max_answer_bytes: int = 256 * 1024 * 1024
    """The tensors of one request, and of one answer."""
    unload_grace: float = 2
    """From closing a worker's channel to killing it."""
    stuck_after: float = 120
    """A request that runs for longer than this has a worker that won't answer any more: it is killed."""
    room: Room | None = None
    """How much memory there is; None: versions are loaded whether they fit or not."""
    allow_operations: frozenset[str] = frozenset()
    """Operations that models may use besides those that compute."""
    require_confinement: bool = False
    """A worker that isn't confined by every measure runs no model."""
    restart_backoff: tuple[float, float] = (0.5, 30)
    """After a crash while serving: the first delay, doubled each time, and the longest."""


_NO_MEMORY = re.compile(r"bad_alloc|cannot allocate memory|out of memory|oom when allocating", re.IGNORECASE)
"""What a process says before it ends itself because it got no memory: the C++ library, the system, TensorFlow."""


@dataclass(frozen=True)
class WorkerEnd:
    """How a worker ended."""

    exit: WorkerExit
    killed_for: str | None
    """Why it was killed by us; None: it wasn't."""
    last_lines: str
    evicted: bool = False
    """It was killed because memory was short, whoever had taken it."""

    @property
    def from_outside(self) -> bool:
        """It neither crashed nor broke the rules."""
        return self.killed_for is None and self.exit.from_outside

    @property
    def out_of_memory(self) -> bool:
        """It got no memory, or was killed before nobody got any."""
        crashed = self.killed_for is None and not self.exit.from_outside
        return self.evicted or (crashed and _NO_MEMORY.search(self.last_lines) is not None)

    def short_of_memory(self) -> str:
        """What happened and what can be done, when it is `out_of_memory`."""
        what = f"{self.killed_for}: its worker was ended, so that no other is" if self.evicted else f"{self}"
        return f"{what}. Raise the memory limit, retire what isn't needed, or roll it out with mode Restart"

    def __str__(self) -> str:
        what = f"the worker {self.exit}" if self.killed_for is None else f"{self.killed_for}; it was killed"
        return f"{what}; its last lines: {self.last_lines}" if self.last_lines else what


class HostedWorker:
    """Made by `start`. Whoever has it calls `end`."""

    def __init__(self, process: WorkerProcess, settings: ResidentSettings) -> None:
        self._process = process
        self._killed_for: str | None = None
        self._evicted = False
        self._dismissed = False
        self.down = asyncio.Event()
        """It can't answer any more."""
        self._channel = WorkerChannel(
            process.socket,
            max_request_bytes=settings.max_request_bytes,
            max_answer_bytes=settings.max_answer_bytes,
            on_close=self._on_channel_close,
        )
        self._asking = Asking(self._channel, settings.threads)
        process.exited.add_done_callback(lambda _: self.down.set())

    @classmethod
    async def start(
        cls,
        launcher: Launcher,
        runtime: str,
        path: Path,
        settings: ResidentSettings,
        context: Mapping[str, Any],
        cpus: float | None = None,
        *,
        when_idle: bool = False,
    ) -> HostedWorker:
        """A worker that has answered. `cpus`: processors' worth of time until `set_free`; None: any. `when_idle`: it
        checks, loads and runs trials only while nobody else wants a processor.
        Raises `LauncherError`, `WorkerDownError`."""
        argument = {**_argument(path, settings), "prepareWhenIdle": when_idle}
        process = await launcher.spawn(runtime, argument, within=settings.start_deadline, context=context, cpus=cpus)
        worker = cls(process, settings)
        try:
            async with asyncio.timeout(settings.start_deadline):
                head, _ = await worker.call({"op": "hello"})
            launcher.confined(head["confinement"])
            if settings.require_confinement:
                _require_all(head["confinement"])
        except BaseException as error:
            await worker.end(0)
            if isinstance(error, TimeoutError):
                raise LauncherError(f"the worker didn't answer in {settings.start_deadline:g} s") from None
            raise
        return worker

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    @property
    def own_bytes(self) -> int:
        """Memory that it has now, as seen from here."""
        return own_bytes(self.pid)

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest request that it was sent has been unanswered; 0 when there is none."""
        return self._asking.oldest_seconds

    @property
    def processor_seconds(self) -> float:
        """Processor time that it has used; 0 when it is gone."""
        try:
            return processor_seconds(self.pid)
        except OSError:
            return 0.0

    async def call(self, head: dict[str, Any], tensors: Mapping[str, Tensor] | None = None) -> Answer:
        """Sends a request when there is a place for it, and waits for the answer. Raises `WorkerDownError`, and
        `ServingError` when the worker says so."""
        return await self._asking.ask(head, tensors).answer

    def ask(
        self,
        signature: str,
        inputs: Mapping[str, Tensor],
        outputs: list[str],
        deadline: float,
        *,
        trial: bool = False,
    ) -> Asked:
        """Asks for a run of a signature; see `run`. The answer is what `outputs_of` takes."""
        head = {"op": "run", "signature": signature, "outputs": outputs, "deadline": deadline, "trial": trial}
        # Whoever tries a version has a deadline of its own around all that it tries.
        return self._asking.ask(head, inputs, None if trial else deadline)

    async def run(
        self,
        signature: str,
        inputs: Mapping[str, Tensor],
        outputs: list[str],
        deadline: float,
        *,
        trial: bool = False,
    ) -> dict[str, Tensor]:
        """Runs a signature. `deadline`: by `time.monotonic`; it is given up then, and the worker begins nothing after
        it. `trial`: nobody waits for it, so it is run at low priority and isn't given up, and its strings are there to
        be compared; large ones of others stay packed. Raises as `call`, and `TimeoutError`."""
        answer = outputs_of(await self.ask(signature, inputs, outputs, deadline, trial=trial).answer, outputs)
        return {name: unpacked(tensor) for name, tensor in answer.items()} if trial else answer

    async def private_bytes(self) -> int:
        """Memory that ending it gives back, as it says itself."""
        head, _ = await self.call({"op": "hello"})
        return int(head["memory"])

    def let_go(self) -> None:
        """It is held to no share of the processors any more."""
        self._process.let_go()

    def set_free(self) -> None:
        """It serves from now on."""
        self._process.set_free(lambda: self._asking.last_asked)

    def kill(self, reason: str) -> None:
        """Ends it now; `reason` is said of its end."""
        if not self._process.exited.done():
            self._killed_for = self._killed_for or reason
            self._process.kill()

    async def evict(self, reason: str, *, own_fault: bool) -> None:
        """Ends it now because memory is short, and waits until it is gone. `own_fault`: counts as a crash."""
        self._evicted = True
        self._dismissed = self._dismissed or not own_fault
        self.kill(reason)
        await asyncio.shield(self._process.exited)

    async def end(self, grace: float) -> None:
        """Closes the channel, so that it exits by itself, and kills it when it hasn't after `grace` seconds. Returns
        when it is gone, even when cancelled meanwhile."""
        self._dismissed = self._dismissed or not self.down.is_set()
        self.down.set()
        self._channel.close()
        if grace:
            await asyncio.wait([self._process.exited], timeout=grace)
        self.kill("it was to end")
        await asyncio.shield(self._process.exited)
        self._process.output.close()

    async def crashed(self) -> bool:
        """Waits for its end and says whether that was its own fault: nobody else ended it, nor was it told to go."""
        end = await self.ended()
        return not self._dismissed and not end.from_outside

    async def ended(self) -> WorkerEnd:
        """How it ended; waits for it, and kills what won't end."""
        done, _ = await asyncio.wait([self._process.exited], timeout=_EXIT_SECONDS)
        if not done:
            self.kill("it closed its channel and went on")
        status = await asyncio.shield(self._process.exited)
        await asyncio.wait([asyncio.ensure_future(self._process.output.ended.wait())], timeout=1)
        return WorkerEnd(status, self._killed_for, self._process.output.tail(), self._evicted)

    def _on_channel_close(self, reason: str) -> None:
        self.down.set()
        if reason.startswith("the worker sent"):
            self.kill(reason)


def outputs_of(answer: Answer, wanted: list[str]) -> dict[str, Tensor]:
    """What a run answered. Raises `ServingError` when it isn't what was asked for."""
    _, tensors = answer
    if tensors.keys() != set(wanted):
        raise ServingError(Code.INTERNAL, f"the model answered {sorted(tensors)}, asked was for {sorted(wanted)}")
    return tensors


def _require_all(confinement: dict[str, str]) -> None:
    missing = lacking(confinement)
    if missing:
        raise LauncherError(
            "--require-confinement: this kernel or container doesn't confine workers as asked: "
            + "; ".join(f"{name} is {why}" for name, why in sorted(missing.items()))
        )


def _argument(path: Path, settings: ResidentSettings) -> dict[str, Any]:
    return {
        "path": str(path.absolute()),
        "threads": settings.threads,
        "maxBatchSize": settings.max_batch_size,
        "sliceRows": settings.slice_rows,
        "maxRequestBytes": settings.max_request_bytes,
        "maxAnswerBytes": settings.max_answer_bytes,
    }
