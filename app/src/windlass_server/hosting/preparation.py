"""How a version becomes able to answer: its files, its load, its signatures, its warm-up, its samples, in this order.

One attempt; what comes before and after is the resident's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from windlass_contract.artifact import Artifact, ArtifactError, read_file, read_manifest, verify
from windlass_contract.failures import Failure, Gate, GateResult, Reason
from windlass_contract.manifest import FileEntry, Manifest, ParitySamples, Signature
from windlass_contract.report import VersionState
from windlass_contract.samples import AcceptanceSamples
from windlass_server.errors import Code, ServingError
from windlass_server.hosting import batching, trials
from windlass_server.hosting.asking import WorkerDownError
from windlass_server.hosting.background import in_background
from windlass_server.hosting.freezing_trial import FreezingError, try_frozen
from windlass_server.hosting.hosted_worker import HostedWorker, ResidentSettings
from windlass_server.hosting.launcher import Launcher, LauncherError
from windlass_server.hosting.memory import kill_first
from windlass_server.hosting.parity import MAX_PARITY_BYTES, ParityArrays, read_parity
from windlass_server.hosting.starving import StarvedError, unless_starved
from windlass_server.runtimes import RUNTIME_OF
from windlass_server.tensors import Tensor

_MAX_MESSAGE = 2000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionSpec:
    """What to hold."""

    model: str
    version: int
    digest: str | None
    """Of the manifest; None: whatever is there."""
    path: Path
    samples: AcceptanceSamples | None = None
    min_score: int = 1000
    """Least share of acceptance samples that are answered as expected, in thousandths."""


class PreparationError(Exception):
    """The version can't answer; `failure` says why."""

    def __init__(self, gate: Gate, reason: Reason, message: str, file: str | None = None) -> None:
        super().__init__(message)
        self.failure = Failure(gate=gate, reason=reason, message=message[:_MAX_MESSAGE], file=file)


@dataclass
class Findings:
    """What an attempt has found so far."""

    state: VersionState = VersionState.WAITING
    progress: float | None = None
    artifact: Artifact | None = None
    signatures: dict[str, Signature] = field(default_factory=dict)
    gates: list[GateResult] = field(default_factory=list)
    batched: set[str] = field(default_factory=set)
    """Signatures whose one-row requests are run together when they come together."""
    sliced: set[str] = field(default_factory=set)
    """Signatures whose large requests are run a few rows at a time."""
    frozen: bool = False
    """Its variables are constants."""
    memory_bytes: int | None = None


_GATES = {
    VersionState.VERIFYING: Gate.DIGEST,
    VersionState.LOADING: Gate.LOAD,
    VersionState.WARMING_UP: Gate.WARM_UP,
    VersionState.TESTING: Gate.ACCEPTANCE,
}


class Preparation:
    """One attempt. Raises `PreparationError` from `run`; no worker is left then, nor when it is cancelled."""

    def __init__(
        self,
        spec: VersionSpec,
        launcher: Launcher,
        settings: ResidentSettings,
        on_change: Callable[[], None],
    ) -> None:
        self.found = Findings()
        self._spec = spec
        self._launcher = launcher
        self._settings = settings
        self._on_change = on_change
        self.worker: HostedWorker | None = None
        """While it is brought up."""
        self._parity: list[tuple[ParitySamples, ParityArrays]] = []
        self._held_to: float | None = None
        self._may_freeze = settings.freeze_bytes > 0
        self._better_frozen = False
        self._freezing = False
        """The worker is asked to."""

    async def run(
        self, *, tested_before: bool = False, better_frozen: bool = False, keep_reserve: bool = True
    ) -> HostedWorker:
        """The worker, able to answer. `tested_before`: the same bytes passed their samples in this replica, so they are
        not run again; `better_frozen`: nor is it tried again whether they are. `keep_reserve`: it isn't loaded when
        less than the reserve of memory would be left."""
        # What served before is missed already.
        self._held_to = None if tested_before else self._settings.preparing_cpus
        self._better_frozen = better_frozen
        self._enter(VersionState.VERIFYING)
        artifact = await self._verify()
        self.found.artifact = artifact
        self._pass(Gate.DIGEST, artifact.digest)
        self._check_room(artifact.manifest, keep_reserve=keep_reserve)
        self._enter(VersionState.LOADING)
        try:
            return await self._bring_up_unfrozen_at_worst(artifact, tested_before, keep_reserve)
        except PreparationError as error:
            if error.failure.is_verdict:
                # A verdict is about the files that verified. If they are others by now, this says so instead.
                await self._verify()
            raise

    async def _bring_up_unfrozen_at_worst(
        self, artifact: Artifact, tested_before: bool, keep_reserve: bool
    ) -> HostedWorker:
        """A version is judged as it was saved: whatever goes wrong with constants in place of its variables is no
        reason not to serve it."""
        before = list(self.found.gates)
        try:
            return await self._bring_up_gently(artifact, tested_before)
        except PreparationError as error:
            if not (self._freezing or self.found.frozen):
                raise
            _log.warning(
                "model %s, version %d: it is loaded anew, with its variables, since it failed with constants: %s",
                self._spec.model, self._spec.version, error,
            )  # fmt: skip
        self._may_freeze = False
        self._begin_anew(before)
        self._check_room(artifact.manifest, keep_reserve=keep_reserve)
        return await self._bring_up_gently(artifact, tested_before)

    def _begin_anew(self, gates: list[GateResult]) -> None:
        self.found.gates[:] = gates
        self._parity.clear()
        self.found.batched.clear()
        self.found.sliced.clear()
        self._freezing = self.found.frozen = False
        self._enter(VersionState.LOADING)

    async def _bring_up_gently(self, artifact: Artifact, tested_before: bool) -> HostedWorker:
        """While requests come to another version, this one takes what they leave; all the same it has to get ready."""
        if tested_before or not self._launcher.is_asked:
            return await self._bring_up(artifact, tested_before)
        before = list(self.found.gates)
        try:
            return await self._bring_up(artifact, tested_before, when_idle=True)
        except StarvedError:
            _log.info(
                "model %s, version %d: requests leave no processor to load it with; started anew at a low priority",
                self._spec.model,
                self._spec.version,
            )
        self._begin_anew(before)
        return await self._bring_up(artifact, tested_before)

    async def _bring_up(self, artifact: Artifact, tested_before: bool, *, when_idle: bool = False) -> HostedWorker:
        """Raises `StarvedError` too, if it is to be done `when_idle`."""
        cpus = self._cpus
        if when_idle and cpus is None:
            cpus = self._settings.preparing_cpus_beside_requests
        worker = await self._start(artifact, cpus, when_idle=when_idle)
        self.worker = worker
        # One that could answer before is no candidate: the kernel has no reason to choose it first.
        undo = None if tested_before else kill_first(worker.pid)
        # A large model isn't to miss its deadline for being held to its share.
        deadline = self._settings.load_deadline
        going = asyncio.get_running_loop().call_later(deadline / 2, worker.let_go)
        try:
            async with asyncio.timeout(deadline):
                proving = self._prove(worker, artifact.manifest, tested_before)
                await (unless_starved(proving, worker, cpus, 3 / 4 * deadline) if when_idle else proving)
        except WorkerDownError:
            end = await worker.ended()
            await worker.end(0)
            if end.out_of_memory:
                raise PreparationError(
                    self._gate(), Reason.WONT_FIT, f"{_WHILE[self.found.state]}, {end.short_of_memory()}"
                ) from None
            reason = Reason.WORKER_LOST if end.from_outside else Reason.WORKER_CRASHED
            raise PreparationError(self._gate(), reason, f"{_WHILE[self.found.state]}, {end}") from None
        except TimeoutError:
            await worker.end(0)
            raise PreparationError(
                self._gate(),
                Reason.LOAD_DEADLINE_EXCEEDED,
                f"it was not ready {deadline:g} s after its worker's start, but still "
                f"{self.found.state.value}; it is tried again. A longer load deadline gives it more time",
            ) from None
        except BaseException:
            await worker.end(0)
            raise
        finally:
            going.cancel()
            self.worker = None
            if undo is not None:
                undo()
        worker.set_free()
        return worker

    async def _prove(self, worker: HostedWorker, manifest: Manifest, tested_before: bool) -> None:
        await self._check_operations(worker, manifest)
        await self._load(worker, manifest)
        await self._verify()  # what was loaded is what was verified: nothing changed in between
        self._enter(VersionState.WARMING_UP)
        await self._read_parity(manifest)
        if self._better_frozen or not tested_before:
            await self._try_frozen(worker, manifest)
        await self._warm_up(worker, manifest)
        await self._try_batches(worker, manifest)
        if not tested_before:
            self._enter(VersionState.TESTING)
            await self._test_parity(worker)
            await self._test_acceptance(worker, manifest)
        self.found.memory_bytes = await worker.private_bytes()

    def _gate(self) -> Gate:
        return _GATES[self.found.state]

    def _enter(self, state: VersionState) -> None:
        self.found.state = state
        self.found.progress = 0.0 if state is not VersionState.LOADING else None  # a load doesn't say how far it is
        self._on_change()

    def _pass(self, gate: Gate, statistic: str = "") -> None:
        self.found.gates.append(GateResult(gate=gate, passed=True, statistic=statistic))

    def _fail(self, gate: Gate, reason: Reason, message: str, statistic: str = "") -> PreparationError:
        self.found.gates.append(GateResult(gate=gate, passed=False, statistic=statistic))
        return PreparationError(gate, reason, message)

    async def _verify(self) -> Artifact:
        spec = self._spec
        found = self.found

        def work(check: Callable[[], None]) -> Artifact:
            total = sum(entry.size for entry in read_manifest(spec.path).manifest.files)
            done = 0

            def progress(count: int) -> None:
                nonlocal done
                check()
                done += count
                if found.state is VersionState.VERIFYING and total:
                    found.progress = min(done / total, 1.0)

            return verify(spec.path, model=spec.model, version=spec.version, digest=spec.digest, progress=progress)

        try:
            artifact = await in_background(work, self._cpus)
        except ArtifactError as error:
            failure = error.failure
            raise PreparationError(failure.gate, failure.reason, failure.message, failure.file) from error
        if found.artifact is not None and artifact.digest != found.artifact.digest:
            raise PreparationError(
                Gate.DIGEST,
                Reason.DIGEST_MISMATCH,
                f"the digest of {spec.path} was {found.artifact.digest} before and is {artifact.digest} now: "
                "someone is changing it; wait for the copy to end, or give changed files a new version number",
            )
        return artifact

    @property
    def _cpus(self) -> float | None:
        """What it may use of the processors now; any where it disturbs nobody."""
        return self._held_to if self._launcher.serves else None

    def _check_room(self, manifest: Manifest, *, keep_reserve: bool) -> None:
        room = self._settings.room
        missing = None if room is None else room.lack(manifest, keep_reserve=keep_reserve)
        if missing is not None:
            raise PreparationError(Gate.LOAD, Reason.WONT_FIT, missing)

    async def _start(self, artifact: Artifact, cpus: float | None, *, when_idle: bool) -> HostedWorker:
        runtime = RUNTIME_OF[artifact.manifest.format]
        context = {"model": self._spec.model, "version": self._spec.version}
        try:
            return await HostedWorker.start(
                self._launcher, runtime, self._spec.path, self._settings, context, cpus, when_idle=when_idle
            )
        except (LauncherError, WorkerDownError) as error:
            # No byte of the model was looked at yet.
            raise PreparationError(
                Gate.LOAD, Reason.RUNTIME_UNAVAILABLE, f"no worker of the {runtime} runtime could be started: {error}"
            ) from error

    async def _check_operations(self, worker: HostedWorker, manifest: Manifest) -> None:
        """Read in the worker: it is confined by now, and this loop stays free."""
        head = {"op": "check", "format": manifest.format.value, "allowed": sorted(self._settings.allow_operations)}
        try:
            answer, _ = await worker.call(head)
        except ServingError as error:
            raise self._fail(
                Gate.OPERATIONS, Reason.LOAD_FAILED, f"its operations can't be read: {error.message}"
            ) from None
        if answer["forbidden"]:
            raise self._fail(Gate.OPERATIONS, Reason.FORBIDDEN_OPERATION, answer["forbidden"])
        self._pass(Gate.OPERATIONS)

    async def _load(self, worker: HostedWorker, manifest: Manifest) -> None:
        started = time.monotonic()
        try:
            head, _ = await worker.call({"op": "load"})
        except ServingError as error:
            if error.code is Code.RESOURCE_EXHAUSTED:
                raise self._no_memory(error) from None
            raise self._fail(Gate.LOAD, Reason.LOAD_FAILED, f"it can't be loaded: {error.message}") from None
        loaded = {name: Signature.parse(value, "the worker's answer") for name, value in head["signatures"].items()}
        self._pass(Gate.LOAD, f"{time.monotonic() - started:.2f} s")
        difference = trials.signature_difference(manifest.signatures, loaded)
        if difference is not None:
            raise self._fail(
                Gate.SIGNATURE,
                Reason.SIGNATURE_MISMATCH,
                f"{difference}: its manifest doesn't say what the model is",
            )
        self._pass(Gate.SIGNATURE, ", ".join(sorted(manifest.signatures))[:200])
        # Only what the manifest names is served.
        self.found.signatures = {name: loaded[name] for name in manifest.signatures}

    async def _read_parity(self, manifest: Manifest) -> None:
        listed = {entry.path: entry for entry in manifest.files}
        left = MAX_PARITY_BYTES
        for samples in manifest.parity:
            signature = self.found.signatures[samples.signature]
            try:
                arrays = await asyncio.to_thread(_read_samples, self._spec.path, listed[samples.path], signature, left)
            except ArtifactError as error:
                failure = error.failure
                raise PreparationError(failure.gate, failure.reason, failure.message, failure.file) from error
            except ValueError as error:
                raise self._fail(
                    Gate.PARITY, Reason.PARITY_FAILED, f"the parity samples {samples.path} can't be used: {error}"
                ) from error
            left = max(0, left - arrays.nbytes)
            self._parity.append((samples, arrays))

    async def _warm_up(self, worker: HostedWorker, manifest: Manifest) -> None:
        """Zeros of each batch size; where there are parity samples, those: they are what the model is made for, while
        zeros may rightly be refused (an empty string is no image)."""
        real = {samples.signature: arrays for samples, arrays in self._parity}
        runs: list[tuple[str, dict[str, Tensor], bool]] = []
        for name, signature in self.found.signatures.items():
            if name in real:
                pieces = trials.batches(signature, real[name].inputs)
                runs += [(name, _cut(real[name].inputs, piece), True) for piece in pieces[:1]]
                continue
            for batch in manifest.warmup_batch_sizes:
                try:
                    runs.append((name, trials.zeros(signature, batch, self._settings.max_request_bytes), False))
                except ValueError as error:
                    raise self._fail(
                        Gate.WARM_UP, Reason.WARM_UP_FAILED, f"signature {name!r} can't be warmed up: {error}"
                    ) from error
        # As often as requests run at a time: a runtime may have something to warm for each of them.
        repeated = [run for run in runs for _ in range(self._settings.threads)]
        refused: list[str] = []
        for index, (name, inputs, is_real) in enumerate(repeated):
            try:
                await self._run(worker, name, inputs)
            except ServingError as error:
                if is_real or error.code is not Code.INVALID_ARGUMENT:
                    raise self._fail(
                        Gate.WARM_UP, Reason.WARM_UP_FAILED, f"warming up signature {name!r}: {error.message}"
                    ) from None
                if name not in refused:
                    refused.append(name)
            self.found.progress = (index + 1) / len(repeated)
        statistic = f"{len(repeated)} runs"
        self._pass(Gate.WARM_UP, f"{statistic}; zeros were refused by {', '.join(refused)}" if refused else statistic)

    async def _try_frozen(self, worker: HostedWorker, manifest: Manifest) -> None:
        if not self._may_freeze:
            return
        rows = {name: self._trial_rows(name) for name in self.found.signatures}
        # No more rows at a time than it was packed with: more may need more memory than there is for it.
        most = max(manifest.warmup_batch_sizes, default=1)
        self._freezing = True
        try:
            better = await try_frozen(
                worker, self._settings, self.found.signatures, rows, most, better=self._better_frozen
            )
        except FreezingError as error:
            raise PreparationError(
                Gate.LOAD, Reason.LOAD_FAILED, f"its variables can't be made constants: {error}"
            ) from None
        self.found.frozen = better
        self._freezing = False
        if better:
            _log.info("model %s: it is run with constants in place of its variables", self._spec.model)

    def _trial_rows(self, signature: str) -> dict[str, Tensor]:
        """Of its parity samples, so many as trials take; none where there are too few."""
        samples = next((arrays.inputs for samples, arrays in self._parity if samples.signature == signature), {})
        enough = all(tensor.ndim and len(tensor) >= batching.LEAST_ROWS for tensor in samples.values())
        return {key: tensor[: batching.TRIED_ROWS] for key, tensor in samples.items()} if enough else {}

    async def _try_batches(self, worker: HostedWorker, manifest: Manifest) -> None:
        """Finds out whether requests may be run together, and large ones in slices. It can answer in any case."""
        # No more rows than it was packed with: more may need more memory than there is for it.
        most = max(manifest.warmup_batch_sizes, default=1)
        for name in self.found.signatures:
            answer, _ = await worker.call({"op": "batch", "signature": name, "rows": most}, self._trial_rows(name))
            if answer.get("batched") is True:
                self.found.batched.add(name)
                _log.info("model %s: one-row requests to signature %s are run together", self._spec.model, name)
            if answer.get("sliced") is True:
                self.found.sliced.add(name)
                _log.info(
                    "model %s: large requests to signature %s are run %d rows at a time",
                    self._spec.model,
                    name,
                    self._settings.slice_rows,
                )

    async def _test_parity(self, worker: HostedWorker) -> None:
        for samples, arrays in self._parity:
            signature = self.found.signatures[samples.signature]
            for piece in trials.batches(signature, arrays.inputs):
                try:
                    answer = await self._run(worker, samples.signature, _cut(arrays.inputs, piece))
                    wrong = [
                        f"output {name!r}: {difference}"
                        for name, expected in _cut(arrays.outputs, piece).items()
                        if (difference := trials.difference(expected, answer[name], samples.rtol, samples.atol))
                    ]
                except ServingError as error:
                    wrong = [error.message]
                if wrong:
                    raise self._fail(
                        Gate.PARITY,
                        Reason.PARITY_FAILED,
                        f"it doesn't compute here what it computed where it was packed ({samples.path}): "
                        + "; ".join(wrong[: trials.SHOWN_SAMPLES]),
                        wrong[0][:200],
                    )
            self._pass(Gate.PARITY, f"{samples.signature}: rtol {samples.rtol:g}, atol {samples.atol:g}")

    async def _test_acceptance(self, worker: HostedWorker, manifest: Manifest) -> None:
        samples = self._spec.samples
        if samples is None:
            return
        signature = self.found.signatures.get(samples.signature)
        if signature is None:
            raise _unusable(
                f"they are for signature {samples.signature!r}, the model has {sorted(self.found.signatures)}"
            )
        correct = 0
        wrong: list[str] = []
        for index, sample in enumerate(samples.samples):
            name = sample.name or f"samples[{index}]"
            try:
                inputs = trials.sample_inputs(sample, signature, self._settings.max_request_bytes)
                output = trials.check_expectation(sample.expect, signature, manifest)
                answer = await self._run(worker, samples.signature, inputs, [output])
                fault = trials.judge(sample.expect, answer[output], manifest)
            except trials.UnusableSampleError as error:
                raise _unusable(f"{name}: {error}") from error
            except ServingError as error:
                fault = f"it was refused: {error.message[:200]}"
            if fault is None:
                correct += 1
            elif len(wrong) < trials.SHOWN_SAMPLES:
                wrong.append(f"{name}: {fault}")
            self.found.progress = (index + 1) / len(samples.samples)
        verdict = trials.Verdict(correct, len(samples.samples), tuple(wrong))
        statistic = verdict.statistic(self._spec.min_score)
        if not verdict.passed(self._spec.min_score):
            raise self._fail(
                Gate.ACCEPTANCE,
                Reason.ACCEPTANCE_FAILED,
                f"acceptance samples: {statistic}. Wrong were, among others, {'; '.join(wrong)}",
                statistic,
            )
        self._pass(Gate.ACCEPTANCE, statistic)

    async def _run(
        self, worker: HostedWorker, signature: str, inputs: dict[str, Tensor], outputs: list[str] | None = None
    ) -> dict[str, Tensor]:
        wanted = outputs or list(self.found.signatures[signature].outputs)
        try:
            # The load's own deadline bounds it from here.
            deadline = time.monotonic() + self._settings.load_deadline
            return await worker.run(signature, inputs, wanted, deadline, trial=True)
        except ServingError as error:
            if error.code is Code.RESOURCE_EXHAUSTED:
                raise self._no_memory(error) from None
            raise

    def _no_memory(self, error: ServingError) -> PreparationError:
        """Says something about this machine, and nothing about the version."""
        return PreparationError(
            self._gate(), Reason.WONT_FIT, f"there is not enough memory for it here: {error.message}; it is tried again"
        )


_WHILE = {
    VersionState.LOADING: "while it loaded",
    VersionState.WARMING_UP: "while it warmed up",
    VersionState.TESTING: "while its samples ran",
}


def _read_samples(folder: Path, entry: FileEntry, signature: Signature, most: int) -> ParityArrays:
    if entry.size > 2 * MAX_PARITY_BYTES:
        raise ValueError(f"the file has {entry.size} bytes; at most {2 * MAX_PARITY_BYTES} are read")
    return read_parity(read_file(folder, entry), signature, most)


def _cut(tensors: dict[str, Tensor], piece: slice) -> dict[str, Tensor]:
    return {name: tensor[piece] if tensor.ndim else tensor for name, tensor in tensors.items()}


def _unusable(message: str) -> PreparationError:
    return PreparationError(
        Gate.ACCEPTANCE,
        Reason.SAMPLES_UNAVAILABLE,
        f"the acceptance samples can't be used with this model: {message}",
    )
