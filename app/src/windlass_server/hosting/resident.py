"""The life of one version in this replica: prepared, serving, started anew when its worker dies, unloaded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from windlass_contract.failures import Failure, Gate, GateResult, Reason
from windlass_contract.manifest import Manifest, Signature
from windlass_contract.report import VersionReport, VersionState
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.asking import WorkerDownError
from windlass_server.hosting.batch_sizes import largest_size
from windlass_server.hosting.faults import NoAnswerInTimeError, WorkerLostError
from windlass_server.hosting.hosted_worker import HostedWorker, ResidentSettings, outputs_of
from windlass_server.hosting.launcher import Launcher
from windlass_server.hosting.memory_watch import Footprint
from windlass_server.hosting.preparation import Findings, Preparation, PreparationError, VersionSpec
from windlass_server.tensors import Tensor

__all__ = ["Resident", "ResidentSettings", "VersionSpec"]

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 1.0
_MEMORY_SECONDS = 30.0
_STEADY_SECONDS = 60.0
"""A worker that lived this long starts the backoff from its beginning."""


class Resident:
    """Belongs to the event loop. `on_change` is called after each change of `state`."""

    def __init__(
        self, spec: VersionSpec, launcher: Launcher, settings: ResidentSettings, on_change: Callable[[Resident], None]
    ) -> None:
        self.spec = spec
        self._launcher = launcher
        self._settings = settings
        self._on_change = on_change
        self._better_frozen = False
        """It was seen to be, once."""
        self._found = Findings()
        self._worker: HostedWorker | None = None
        self._preparation: Preparation | None = None
        self._expected_bytes = 0
        self._evicted = False
        """Its last worker was ended because memory was short."""
        self._keeper: asyncio.Task[None] | None = None
        self.state = VersionState.WAITING
        self.failure: Failure | None = None
        """Why it is Failed, or what it waits for."""
        self.restarts = 0
        self.was_prepared = False
        """It has been able to answer; if it isn't now, it is being started anew, or unloaded."""
        self.in_flight = 0
        """Calls of `infer` that haven't returned."""

    # What there is to know.

    @property
    def progress(self) -> float | None:
        """Share of the present state's work done, 0 to 1, where it is known."""
        return None if self.state is VersionState.PREPARED else self._found.progress

    @property
    def manifest(self) -> Manifest | None:
        """Once its files verified; so are `digest` and `content_digest`."""
        return self._found.artifact.manifest if self._found.artifact else None

    @property
    def digest(self) -> str | None:
        """Of its manifest."""
        return self._found.artifact.digest if self._found.artifact else None

    @property
    def content_digest(self) -> str | None:
        """Of the model's own files."""
        return self.manifest.content_digest() if self.manifest else None

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """As the loaded model has them, of those that its manifest names."""
        return self._found.signatures

    @property
    def batched(self) -> frozenset[str]:
        """Signatures whose one-row requests are run together when they come together."""
        return frozenset(self._found.batched)

    @property
    def max_batch_size(self) -> int:
        """How many of these are run together at most; 1: none."""
        return largest_size(self._settings.max_batch_size) if self._found.batched else 1

    @property
    def slice_rows(self) -> int:
        """How many rows of a large request are run at a time; 0: all of them."""
        return self._settings.slice_rows if self._found.sliced else 0

    @property
    def frozen(self) -> bool:
        """Its variables are constants."""
        return self._found.frozen

    @property
    def threads(self) -> int:
        """Requests that its worker runs at a time."""
        return self._settings.threads

    @property
    def gates(self) -> list[GateResult]:
        """Evidence so far, in order."""
        return self._found.gates

    @property
    def memory_bytes(self) -> int | None:
        """Private memory of its worker; measured again now and then."""
        return self._found.memory_bytes if self._worker else None

    @property
    def worker_pid(self) -> int | None:
        """Of the worker that answers."""
        return self._worker.pid if self._worker else None

    @property
    def stuck(self) -> bool:
        """Its worker has had a request for too long; it is about to be killed."""
        return self._worker is not None and self._worker.oldest_seconds > self._settings.stuck_after

    def report(self) -> VersionReport:
        """For the serving report. Requests are counted where they are admitted, not here."""
        return VersionReport(
            version=self.spec.version,
            digest=self.digest,
            content_digest=self.content_digest,
            state=self.state,
            failure=self.failure,
            progress=self.progress,
            gates=list(self.gates),
            signatures=dict(self.signatures),
            restarts=self.restarts,
            memory_bytes=self.memory_bytes,
        )

    def footprint(self) -> Footprint | None:
        """The memory of its worker; None: it has none."""
        worker = self._present_worker
        return None if worker is None else Footprint(worker.own_bytes, self._expected_bytes)

    # Its life.

    async def prepare(self) -> None:
        """One attempt to make it able to answer. Afterwards it is Prepared; or Failed, for good; or Waiting with a
        `failure` that another attempt may not meet: when to call this again is the caller's business. Doesn't raise for
        the version's faults. Cancelled, it leaves no worker behind, and the version Waiting."""
        if self.state in {VersionState.PREPARED, VersionState.FAILED, VersionState.UNLOADING} or self._keeper:
            return
        self.failure = None
        try:
            worker = await self._attempt(tested_before=False)
        except PreparationError as error:
            self._failed(error.failure)
        except BaseException:
            self._wait()
            raise
        else:
            self._prepared(worker)
            self._keeper = asyncio.create_task(self._keep(worker), name=f"keep {self.spec.model}/{self.spec.version}")

    async def infer(
        self,
        signature: str,
        inputs: Mapping[str, Tensor],
        outputs: list[str] | None = None,
        *,
        timeout: float,  # noqa: ASYNC109 - it is the worker's deadline too
    ) -> dict[str, Tensor]:
        """Runs a signature within `timeout` seconds. `outputs`: only these. Raises `ServingError`; the worker holds
        `inputs` against the signature before it runs anything. Cancelled, its answer is thrown away."""
        worker, wanted = self._admit(signature, outputs)
        asked = worker.ask(signature, inputs, wanted, time.monotonic() + timeout)
        self.in_flight += 1
        try:
            return outputs_of(await asked.answer, wanted)
        except WorkerDownError as error:
            raise WorkerLostError(f"{self._name} can't answer: {error}", worker.pid, worker.crashed) from None
        except TimeoutError:
            # Its own run, or another that blocks the worker: either way nothing came of the version meanwhile.
            ran = max(0.0 if asked.sent is None else time.monotonic() - asked.sent, worker.oldest_seconds)
            own_share = min(ran / timeout, 1.0)
            message = f"{self._name} had no answer in {timeout:.3g} s"
            raise NoAnswerInTimeError(message, own_share=own_share) from None
        finally:
            self.in_flight -= 1

    async def evict(self, why: str, *, own_fault: bool) -> None:
        """Ends its worker because memory is short, and waits until that is gone. It is started anew when there is room
        again."""
        self._evicted = True
        worker = self._present_worker
        if worker is not None:
            await worker.evict(why, own_fault=own_fault)

    async def unload(self) -> None:
        """Ends its worker and gives its memory back; the caller has drained it. Nothing can be done with it then."""
        self._enter(VersionState.UNLOADING)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.end(self._settings.unload_grace)

    # The rest is ours.

    @property
    def _name(self) -> str:
        return f"version {self.spec.version} of model {self.spec.model}"

    @property
    def _present_worker(self) -> HostedWorker | None:
        return self._worker or (self._preparation.worker if self._preparation is not None else None)

    def _enter(self, state: VersionState) -> None:
        self.state = state
        self._on_change(self)

    def _admit(self, signature: str, outputs: list[str] | None) -> tuple[HostedWorker, list[str]]:
        worker = self._worker
        if worker is None or worker.down.is_set():
            raise ServingError(Code.UNAVAILABLE, f"{self._name} can't answer now", retry_after=1)
        known = self.signatures.get(signature)
        if known is None:
            raise ServingError(
                Code.INVALID_ARGUMENT, f'Serving signature name: "{signature}" not found in signature def'
            )
        wanted = list(known.outputs) if outputs is None else outputs
        unknown = [] if outputs is None else [name for name in wanted if name not in known.outputs]
        if unknown or not wanted:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"the outputs are {sorted(known.outputs)}, asked was for {unknown or wanted}"
            )
        return worker, wanted

    async def _attempt(self, *, tested_before: bool) -> HostedWorker:
        preparation = self._preparation = Preparation(self.spec, self._launcher, self._settings, self._follow)
        before, self._found = self._found, preparation.found
        if tested_before:
            # It has to be what it was; and until it is loaded again, that is what there is to know of it.
            preparation.found.artifact = before.artifact
            preparation.found.signatures = before.signatures
        try:
            # What ran here before is worth the reserve, unless it was ended for taking that.
            keep_reserve = self._evicted or not tested_before
            return await preparation.run(
                tested_before=tested_before, better_frozen=self._better_frozen, keep_reserve=keep_reserve
            )
        finally:
            if tested_before:
                preparation.found.gates = before.gates  # what it passed when its samples were run

    def _follow(self) -> None:
        if self.state is not VersionState.UNLOADING:
            self._enter(self._found.state)

    def _prepared(self, worker: HostedWorker) -> None:
        self._worker = worker
        self._preparation = None
        self._expected_bytes = worker.own_bytes
        self._evicted = False
        self.failure = None
        self.was_prepared = True
        self._better_frozen |= self._found.frozen
        self._enter(VersionState.PREPARED)

    def _wait(self) -> None:
        if self.state is not VersionState.UNLOADING:
            self._enter(VersionState.WAITING)

    def _failed(self, failure: Failure) -> None:
        self.failure = failure
        _log.warning("%s: %s: %s", self._name, failure.reason.value, failure.message)
        if failure.is_verdict:
            self._enter(VersionState.FAILED)
            return
        self._wait()

    async def _keep(self, worker: HostedWorker) -> None:
        """Watches the worker, and starts another whenever it is down."""
        shortest, longest = self._settings.restart_backoff
        delay = shortest
        while True:
            since = time.monotonic()
            await self._watch(worker)
            # No request is to be sent here from now on; how it ended is found out meanwhile.
            self._worker = None
            self._enter(VersionState.LOADING)
            try:
                end = await worker.ended()
            finally:
                await worker.end(0)
            reason, how = Reason.WORKER_CRASHED, str(end)
            if end.out_of_memory:
                reason, how = Reason.WONT_FIT, end.short_of_memory()
            elif end.from_outside:
                reason = Reason.WORKER_LOST
            self._lost(Failure(gate=Gate.LOAD, reason=reason, message=f"while it served, {how}"[:2000]))
            if time.monotonic() - since > _STEADY_SECONDS:
                delay = shortest
            while True:
                await asyncio.sleep(delay)
                delay = min(delay * 2, longest)
                try:
                    async with self._launcher.preparing:
                        worker = await self._attempt(tested_before=True)
                    break
                except PreparationError as error:
                    # It could answer with the same bytes: no verdict, whatever it is now.
                    self._lost(error.failure)
                except Exception as error:  # noqa: BLE001 - as the comment says
                    # A fault of this program, not of the version: a keeper that ended by it would never start another.
                    _log.exception("starting %s anew broke", self._name)
                    message = f"this replica couldn't start it anew: {type(error).__name__}: {error}"
                    self._lost(Failure(gate=Gate.LOAD, reason=Reason.RUNTIME_UNAVAILABLE, message=message[:2000]))
            self._prepared(worker)

    def _lost(self, failure: Failure) -> None:
        self.failure = failure
        self.restarts += 1
        _log.warning("%s is started anew: %s", self._name, failure.message)
        self._enter(VersionState.LOADING)

    async def _watch(self, worker: HostedWorker) -> None:
        """Returns when the worker is down. Kills it when it is stuck."""
        measured = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_SECONDS):
                    await worker.down.wait()
            if worker.down.is_set():
                return
            if worker.oldest_seconds > self._settings.stuck_after:
                worker.kill(f"a request had no answer for {worker.oldest_seconds:.0f} s")
            elif time.monotonic() - measured > _MEMORY_SECONDS and not self.in_flight and not worker.oldest_seconds:
                measured = time.monotonic()
                try:
                    # One that stands still doesn't answer this either, and has had it for too long then.
                    async with asyncio.timeout(self._settings.stuck_after):
                        self._found.memory_bytes = await worker.private_bytes()
                except TimeoutError:
                    continue
                except WorkerDownError:
                    return
