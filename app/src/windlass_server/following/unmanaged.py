"""Without any plan source a replica behaves like TensorFlow Serving: of each model the highest complete version serves.

The folder is looked at each second; a new version is loaded beside the old one, which answers until then. Unlike
there, a folder without a manifest is never served, and a version that fails makes room for the next lower one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from windlass_contract.artifact import ArtifactError, read_manifest
from windlass_contract.identifiers import MAX_VERSION, ModelName
from windlass_contract.manifest import MANIFEST_NAME
from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.report import VersionState
from windlass_contract.samples import AcceptanceSamples
from windlass_server.health import PlanSource
from windlass_server.hosting.host import Host, SamplesUnavailable
from windlass_server.hosting.order import Key
from windlass_server.hosting.slot import Slot

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
MAX_MODELS = 1000
_NAME: TypeAdapter[str] = TypeAdapter(ModelName)


@dataclass(frozen=True)
class Found:
    """A complete version."""

    key: Key
    path: str
    """Relative to the folder of models."""


@dataclass(frozen=True)
class Look:
    """What was found in the folder of models."""

    complete: tuple[Found, ...] = ()
    reasons: Mapping[str, str] | None = None
    """Folder to why it isn't served."""


class Folder:
    """The folder of models. Does blocking I/O: use it in a thread."""

    def __init__(self, models: Path) -> None:
        self._models = models
        self._seen: dict[Path, tuple[tuple[int, int, int], Found | str]] = {}
        """Manifest to its identity and what was read then."""

    def look(self) -> Look:
        """All complete versions. Manifests that didn't change are not read again."""
        complete: dict[tuple[str, int], Found] = {}
        reasons: dict[str, str] = {}
        seen: dict[Path, tuple[tuple[int, int, int], Found | str]] = {}
        try:
            models = [each for each in sorted(self._models.iterdir()) if each.is_dir() and each.name[0] not in "._"]
        except OSError as error:
            return Look(reasons={str(self._models): f"{self._models} can't be read: {error.strerror}"})
        for model in models[:MAX_MODELS]:
            try:
                _NAME.validate_python(model.name)
                versions = sorted(each for each in model.iterdir() if _is_version(each))
            except ValidationError:
                reasons[str(model)] = f"{model}: a model's name has letters, digits, '.', '_' and '-' only, at most 63"
                continue
            except OSError as error:
                reasons[str(model)] = f"{model} can't be read: {error.strerror}"
                continue
            for folder in versions:
                found = self._read(folder, seen)
                if isinstance(found, str):
                    reasons[str(folder)] = found
                elif complete.setdefault((found.key.model, found.key.version), found) is not found:
                    reasons[str(folder)] = f"{folder}: another folder holds this version already; remove one"
        self._seen = seen
        # Names on disk are bytes; what is no text is shown escaped, or nobody could be told of it.
        told = {_printable(name): _printable(reason) for name, reason in reasons.items()}
        return Look(tuple(complete.values()), told)

    def _read(self, folder: Path, seen: dict[Path, tuple[tuple[int, int, int], Found | str]]) -> Found | str:
        path = folder / MANIFEST_NAME
        try:
            status = path.stat(follow_symlinks=False)
            identity = (status.st_ino, status.st_size, status.st_ctime_ns)
        except OSError:
            identity = (0, 0, 0)
        known = self._seen.get(path)
        if known is not None and known[0] == identity:
            seen[path] = known
            return known[1]
        result = _read_version(folder)
        seen[path] = (identity, result)
        return result


def choose(
    complete: Sequence[Found],
    failed: Collection[Key],
    troubled: Collection[Key],
    present: Mapping[str, ModelPlan],
) -> dict[str, ModelPlan]:
    """What to serve of each model.

    The highest version that didn't fail; while the files of one are in `troubled` (it can't be loaded now, but may be
    later) it stays a candidate and the next lower one serves. A model of which nothing complete is left stays as it
    is: what serves goes on serving.
    """
    by_model: dict[str, list[Found]] = {}
    for found in sorted(complete, key=lambda found: -found.key.version):
        by_model.setdefault(found.key.model, []).append(found)
    plans = {name: plan for name, plan in present.items() if name not in by_model and plan.committed is not None}
    for name, versions in by_model.items():
        # If all failed the highest stays planned, so that health and status tell of it.
        sound = [found for found in versions if found.key not in failed] or versions[:1]
        committed = next((found for found in sound if found.key not in troubled), sound[0])
        above = [found for found in sound if found.key.version > committed.key.version]
        candidate = above[0] if above else None
        plans[name] = ModelPlan(
            committed=committed.key.version,
            candidate=candidate.key.version if candidate else None,
            versions=[
                PlannedVersion(version=found.key.version, digest=found.key.digest, path=found.path, weight=weight)
                for found, weight in ((committed, 1000), (candidate, 0))
                if found is not None
            ],
        )
    return plans


class Unmanaged:
    """The plan of a replica that chooses for itself."""

    def __init__(self, host: Host, models: Path) -> None:
        self._host = host
        self._folder = Folder(models)
        self._news = asyncio.Event()
        self._failed: dict[Key, str] = {}
        """Versions that a verdict ended, and why; until their files change."""
        self._troubled: set[Key] = set()
        self._reasons: dict[str, str] = {}

    source = PlanSource.UNMANAGED

    def problems(self) -> list[str]:
        """What isn't served and why, each in a sentence with the command that mends it."""
        return [*self._reasons.values(), *(f"{key} failed: {reason}" for key, reason in self._failed.items())]

    def changed(self) -> None:
        """A state changed: a version may have failed, or be well again. Each does so a dozen times on its way, and the
        folder isn't to be looked at for every one of them."""
        if any(self._is_news(key, slot) for key, slot in self._host.slots.items()):
            self._news.set()

    async def samples(self, digest: str) -> AcceptanceSamples:
        """Nobody asks for any here. Raises `SamplesUnavailable`."""
        raise SamplesUnavailable(f"a replica without an operator has no acceptance samples ({digest})")

    async def run(self) -> None:
        """Looks and chooses until cancelled."""
        self._host.begin()
        while True:
            self._news.clear()
            look = await asyncio.to_thread(self._folder.look)
            self._learn(look)
            self._say(dict(look.reasons or {}))
            plan = self._host.plan
            models = choose(look.complete, self._failed, self._troubled, plan.models if plan else {})
            if plan is None or models != plan.models:
                self._host.apply(ServingPlan.build(self._host.server, plan.epoch + 1 if plan else 1, models))
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                pass  # nothing happened here; the folder may have changed

    def _is_news(self, key: Key, slot: Slot) -> bool:
        """Whether `_learn` would take something in of it."""
        if slot.state is VersionState.FAILED:
            return key not in self._failed
        if slot.prepared:
            return key in self._troubled
        return _is_troubled(slot) and key not in self._troubled

    def _learn(self, look: Look) -> None:
        """Takes in what became of the versions held, and forgets what is gone."""
        there = {found.key for found in look.complete}
        for key, slot in self._host.slots.items():
            if slot.state is VersionState.FAILED:
                self._failed[key] = slot.message
            elif slot.prepared:
                self._troubled.discard(key)
            elif _is_troubled(slot):
                self._troubled.add(key)
        self._failed = {key: reason for key, reason in self._failed.items() if key in there}
        self._troubled &= there

    def _say(self, reasons: dict[str, str]) -> None:
        for folder, reason in reasons.items():
            if self._reasons.get(folder) != reason:
                log.warning("not served", folder=folder, reason=reason)
        self._reasons = reasons


def _is_troubled(slot: Slot) -> bool:
    """It can't be loaded now, but may be later."""
    return bool(slot.message) and not slot.was_prepared


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _is_version(folder: Path) -> bool:
    return folder.name.isascii() and folder.name.isdigit() and int(folder.name) <= MAX_VERSION and folder.is_dir()


def _read_version(folder: Path) -> Found | str:
    """A version's folder as far as its manifest goes; its files are verified before it is loaded."""
    model, version = folder.parent.name, int(folder.name)
    try:
        artifact = read_manifest(folder)
    except ArtifactError as error:
        return error.failure.message
    manifest = artifact.manifest
    if (manifest.model, manifest.version) != (model, version):
        return (
            f"{folder / MANIFEST_NAME} is of model {manifest.model!r} version {manifest.version}, its folder says "
            f"{model!r} version {version}: move the folder, or pack anew (windlass pack)"
        )
    return Found(Key(model, version, artifact.digest), f"{model}/{folder.name}")
