"""The life of one version in this replica: prepared, serving, started anew when its worker dies, unloaded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from windlass_contract.failures import Failure, Gate, GateResult, Reason
from windlass_contract.histogram import LatencyHistogram, bucket_of
from windlass_contract.manifest import Manifest, Signature
from windlass_contract.report import Counters, VersionReport, VersionState
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.hosted_worker import HostedWorker, ResidentSettings, WorkerDownError
from windlass_server.hosting.launcher import Launcher
from windlass_server.hosting.preparation import Findings, Preparation, PreparationError, VersionSpec
from windlass_server.runtimes.runtime import check_inputs
from windlass_server.tensors import Tensor

__all__ = ["Resident", "ResidentSettings", "VersionSpec"]

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 1.0
_MEMORY_SECONDS = 30.0
_STEADY_SECONDS = 60.0
"""A worker that lived this long starts the backoff from its beginning."""


class Resident:
    """Belongs to the event loop. `on_change` is called after each change of `state`, and when a retry is due."""

    def __init__(
        self, spec: VersionSpec, launcher: Launcher, settings: ResidentSettings, on_change: Callable[[Resident], None]
    ) -> None:
        self.spec = spec
        self._launcher = launcher
        self._settings = settings
        self._on_change = on_change
        self._found = Findings()
        self._worker: HostedWorker | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._retry_delay = settings.retry_backoff[0]
        self._histogram: dict[int, int] = {}
        self._requests = 0
        self._errors = 0
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
    def retry_due(self) -> bool:
        """`prepare` may be called: it isn't waiting for a retry's time."""
        return self._retry is None and self._keeper is None

    @property
    def stuck(self) -> bool:
        """Its worker has had a request for too long; it is about to be killed."""
        return self._worker is not None and self._worker.oldest_seconds > self._settings.stuck_after

    def report(self) -> VersionReport:
        """For the serving report."""
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
            counters=Counters(
                requests=self._requests,
                errors=self._errors,
                latency=LatencyHistogram(buckets=dict(self._histogram)),
            ),
        )

    # Its life.

    async def prepare(self) -> None:
        """One attempt to make it able to answer. Afterwards it is Prepared; or Failed, for good; or Waiting with a
        `failure`: `on_change` is called again when the next attempt is due, after 1 s to 30 s. Doesn't raise for the
        version's faults. Cancelled, it leaves no worker behind, and the version Waiting."""
        if self.state in {VersionState.PREPARED, VersionState.FAILED, VersionState.UNLOADING} or self._keeper:
            return
        self._cancel_retry()
        self.failure = None
        try:
            worker = await self._attempt(tested_before=False)
        except PreparationError as error:
            self._failed(error.failure)
        except BaseException:
            self._wait()
            raise
        else:
            self._retry_delay = self._settings.retry_backoff[0]
            self._prepared(worker)
            self._keeper = asyncio.create_task(self._keep(worker), name=f"keep {self.spec.model}/{self.spec.version}")

    async def infer(
        self,
        signature: str,
        inputs: Mapping[str, Tensor],
        outputs: list[str] | None = None,
        *,
        timeout: float,  # noqa: ASYNC109 - it is the worker's deadline too
        evidence: bool = True,
    ) -> dict[str, Tensor]:
        """Runs a signature within `timeout` seconds. `outputs`: only these. `evidence`: whether it counts. Raises
        `ServingError`. Cancelled, the worker's answer is thrown away."""
        worker, wanted = self._admit(signature, inputs, outputs)
        started = time.monotonic()
        self.in_flight += 1
        fault = False
        try:
            async with asyncio.timeout(timeout):
                answer = await worker.run(signature, inputs, wanted, started + timeout)
        except WorkerDownError as error:
            fault = True
            raise ServingError(Code.UNAVAILABLE, f"{self._name} can't answer: {error}", retry_after=1) from None
        except TimeoutError:
            fault = True
            raise ServingError(Code.DEADLINE_EXCEEDED, f"{self._name} had no answer in {timeout:g} s") from None
        except ServingError as error:
            fault = error.code in {Code.INTERNAL, Code.DEADLINE_EXCEEDED}
            raise
        except asyncio.CancelledError:
            evidence = False
            raise
        finally:
            self.in_flight -= 1
            if evidence:
                self._count(time.monotonic() - started, fault)
        return answer

    async def unload(self) -> None:
        """Ends its worker and gives its memory back; the caller has drained it. Nothing can be done with it then."""
        self._cancel_retry()
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

    def _enter(self, state: VersionState) -> None:
        self.state = state
        self._on_change(self)

    def _admit(
        self, signature: str, inputs: Mapping[str, Tensor], outputs: list[str] | None
    ) -> tuple[HostedWorker, list[str]]:
        worker = self._worker
        if worker is None or worker.down.is_set():
            raise ServingError(Code.UNAVAILABLE, f"{self._name} can't answer now", retry_after=1)
        known = self.signatures.get(signature)
        if known is None:
            raise ServingError(
                Code.INVALID_ARGUMENT, f'Serving signature name: "{signature}" not found in signature def'
            )
        check_inputs(known, inputs)
        size = sum(tensor.nbytes for tensor in inputs.values())
        if size > self._settings.max_request_bytes:
            raise ServingError(
                Code.PAYLOAD_TOO_LARGE,
                f"the inputs have {size} bytes; at most {self._settings.max_request_bytes} are taken",
            )
        wanted = list(known.outputs) if outputs is None else outputs
        unknown = [name for name in wanted if name not in known.outputs]
        if unknown or not wanted:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"the outputs are {sorted(known.outputs)}, asked was for {unknown or wanted}"
            )
        return worker, wanted

    def _count(self, seconds: float, fault: bool) -> None:
        self._requests += 1
        self._errors += fault
        bucket = bucket_of(seconds)
        self._histogram[bucket] = self._histogram.get(bucket, 0) + 1

    async def _attempt(self, *, tested_before: bool) -> HostedWorker:
        preparation = Preparation(self.spec, self._launcher, self._settings, self._follow)
        gates = self.gates
        self._found = preparation.found
        try:
            return await preparation.run(tested_before=tested_before)
        finally:
            if tested_before:
                preparation.found.gates = gates  # what it passed when its samples were run

    def _follow(self) -> None:
        if self.state is not VersionState.UNLOADING:
            self._enter(self._found.state)

    def _prepared(self, worker: HostedWorker) -> None:
        self._worker = worker
        self.failure = None
        self.was_prepared = True
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
        self._retry = asyncio.get_running_loop().call_later(self._retry_delay, self._retry_comes_due)
        self._retry_delay = min(self._retry_delay * 2, self._settings.retry_backoff[1])
        self._wait()

    def _retry_comes_due(self) -> None:
        self._retry = None
        self._on_change(self)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    async def _keep(self, worker: HostedWorker) -> None:
        """Watches the worker, and starts another whenever it is down."""
        shortest, longest = self._settings.restart_backoff
        delay = shortest
        while True:
            since = time.monotonic()
            try:
                await self._watch(worker)
                end = await worker.ended()
            finally:
                if worker.down.is_set():
                    self._worker = None
            await worker.end(0)
            reason = Reason.WORKER_LOST if end.from_outside else Reason.WORKER_CRASHED
            self._lost(Failure(gate=Gate.LOAD, reason=reason, message=f"while it served, {end}"[:2000]))
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
            elif time.monotonic() - measured > _MEMORY_SECONDS and not self.in_flight:
                measured = time.monotonic()
                try:
                    self._found.memory_bytes = await worker.private_bytes()
                except WorkerDownError:
                    return
