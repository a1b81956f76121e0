"""Which version is wanted. It depends on nothing but ModelVersions, verdicts, decisions and what is committed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from windlass_contract.fetching import FETCHED_SCHEMES
from windlass_contract.identifiers import MAX_PATH, stays_inside, thousandths
from windlass_contract.model_version import Mode, ModelVersionSpec, State
from windlass_contract.plan import SamplesRef
from windlass_contract.record import ModelRecord, VersionRef

from .draft import block_of
from .interface import SeenModelVersion

MOUNTED = "volume://"
IMAGE = "oci://"
NO_RESTART = "there are no Pods here that a Deployment makes; use mode InPlace"


def never(spec: ModelVersionSpec) -> str:
    """Why a version can't be brought by new Pods, where there are none; empty: it needn't."""
    return NO_RESTART if spec.rollout.mode is Mode.RESTART else ""


Forbids = Callable[[ModelVersionSpec], str]
"""Why a version can't be brought as it asks for; empty: it can."""


@dataclass(frozen=True)
class Obstacle:
    """Why a version isn't started, although it is wanted."""

    reason: str
    message: str


@dataclass(frozen=True)
class Claim:
    """A version that one or more ModelVersions name with the same digest (while one is renamed there are two)."""

    version: int
    digest: str | None
    objects: tuple[SeenModelVersion, ...]
    """Sorted by name, those that are Active first."""
    obstacle: Obstacle | None = None

    @property
    def seen(self) -> SeenModelVersion:
        """The object that speaks for all."""
        return self.objects[0]

    @property
    def spec(self) -> ModelVersionSpec:
        """Of the object that speaks for all."""
        return self.seen.model_version.spec

    @property
    def active(self) -> bool:
        """Whether it is wanted at all."""
        return self.spec.state is State.ACTIVE

    def matches(self, ref: VersionRef | None) -> bool:
        """Whether the record speaks of this version."""
        return ref is not None and (ref.version, ref.digest) == (self.version, self.digest)

    def reference(self) -> VersionRef:
        """As the record remembers it. Raises `ValueError` without a digest: such a version isn't started."""
        if self.digest is None:
            raise ValueError(f"version {self.version} has no digest")
        places = {"path": mounted_path(self.spec), "uri": fetched_uri(self.spec), "image": image_of(self.spec)}
        given = {name: place for name, place in places.items() if place is not None}
        return VersionRef(version=self.version, digest=self.digest, model_version=self.seen.name, **given)

    def samples(self) -> SamplesRef | None:
        """The acceptance samples to pass."""
        source, digest = self.spec.verify.samples, self.seen.samples_digest
        if source is None or digest is None:
            return None
        return SamplesRef(digest=digest, min_score=thousandths(source.min_score))


def claims_of(objects: Iterable[SeenModelVersion], record: ModelRecord, forbids: Forbids = never) -> tuple[Claim, ...]:
    """The versions that the ModelVersions of one model name, highest first."""
    grouped: dict[tuple[int, str | None], list[SeenModelVersion]] = {}
    for seen in sorted(objects, key=lambda each: (each.model_version.spec.state is not State.ACTIVE, each.name)):
        spec = seen.model_version.spec
        grouped.setdefault((spec.version, spec.artifact.digest), []).append(seen)
    claims = []
    for (version, digest), group in sorted(grouped.items(), key=lambda item: (-item[0][0], item[0][1] or "")):
        claim = Claim(version, digest, tuple(group))
        rivals = [each for key, others in grouped.items() if key[0] == version and key[1] != digest for each in others]
        claims.append(Claim(version, digest, tuple(group), _obstacle(claim, rivals, record, forbids)))
    return tuple(claims)


def desired(claims: Iterable[Claim], record: ModelRecord) -> Claim | None:
    """The highest version that is Active and neither quarantined nor held; None: there is none.

    A version that can't be started (`Claim.obstacle`) is passed over, so that it doesn't matter whether it came before
    or after the others. What is committed needn't be started: no clash and no later edit makes it unwanted.
    """
    for claim in sorted(claims, key=lambda each: -each.version):
        if not claim.active or claim.digest is None or block_of(record, claim.digest) is not None:
            continue
        if claim.obstacle is None or claim.matches(record.committed):
            return claim
    return None


def claim_of(claims: Iterable[Claim], ref: VersionRef | None) -> Claim | None:
    """The ModelVersions behind a version in the record."""
    return next((claim for claim in claims if claim.matches(ref)), None)


def fetched_uri(spec: ModelVersionSpec) -> str | None:
    """Where a fetcher gets the files from; None: they are mounted."""
    return None if spec.artifact.uri.startswith((MOUNTED, IMAGE)) else spec.artifact.uri


def image_of(spec: ModelVersionSpec) -> str | None:
    """The image that Pods mount as the models' folder; None: it is another volume."""
    return spec.artifact.uri.removeprefix(IMAGE) if spec.artifact.uri.startswith(IMAGE) else None


def mounted_path(spec: ModelVersionSpec) -> str | None:
    """Where the files lie below the models' folder; None: at `<model>/<version>`, as all that is fetched or mounted by
    an image."""
    if not spec.artifact.uri.startswith(MOUNTED):
        return None
    path = spec.artifact.uri.removeprefix(MOUNTED).strip("/")
    return None if path in {"", f"{spec.model}/{spec.version}"} else path


def _obstacle(claim: Claim, rivals: list[SeenModelVersion], record: ModelRecord, forbids: Forbids) -> Obstacle | None:
    if rivals:
        names = ", ".join(sorted({each.name for each in (*claim.objects, *rivals)}))
        return Obstacle(
            "Conflict",
            f"version {claim.version} is named with different digests by {names}; neither is started: remove one, "
            "or give it a version number of its own",
        )
    committed = record.committed
    if committed is not None and committed.version == claim.version and committed.digest != claim.digest:
        return Obstacle(
            "Conflict",
            f"version {claim.version} already serves with digest {committed.digest}; other files need a version "
            "number of their own",
        )
    for seen in claim.objects:
        # While two objects name it, what either of them asks for has to be possible.
        obstacle = _own_obstacle(seen, forbids)
        if obstacle is not None and seen.model_version.spec.state is claim.spec.state:
            return obstacle
    return None


def _own_obstacle(seen: SeenModelVersion, forbids: Forbids) -> Obstacle | None:
    spec = seen.model_version.spec
    why = forbids(spec)
    if why:
        return Obstacle("ModeNotSupported", f"not started by spec.rollout.mode {spec.rollout.mode}: {why}")
    fields = unsupported(spec)
    if fields:
        return Obstacle("NotSupported", "not started, since this release doesn't support: " + "; ".join(fields))
    if seen.samples_problem:
        return Obstacle("SamplesUnavailable", seen.samples_problem)
    if spec.verify.samples is not None and seen.samples_digest is None:
        return Obstacle("SamplesUnavailable", "the acceptance samples of spec.verify.samples were not read yet")
    return None


def _unfetchable(uri: str) -> list[str]:
    scheme, _, rest = uri.partition("://")
    if scheme not in FETCHED_SCHEMES:
        known = ", ".join(f"{each}://" for each in FETCHED_SCHEMES)
        return [f"spec.artifact.uri {scheme}:// (use {known}, {IMAGE} or {MOUNTED})"]
    host, _, path = rest.partition("/")
    if not re.fullmatch(r"[A-Za-z0-9._:\[\]-]+", host):
        return ["spec.artifact.uri without a host, or with a user or password in it (they belong to the fetcher)"]
    if not stays_inside(path.strip("/") or ".") or set(path) & set("?#\\"):
        return ["spec.artifact.uri with '..', '?', '#', '\\' or control characters (name the folder of the version)"]
    return []


def _unmountable(image: str, mode: Mode) -> list[str]:
    if mode is not Mode.RESTART:
        return [f"spec.artifact.uri {IMAGE} in mode {mode} (running Pods can't mount another image: use Restart)"]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*[A-Za-z0-9]", image):
        return ["spec.artifact.uri that names no image (write oci://registry.example.com/digits:2)"]
    return []


def unsupported(spec: ModelVersionSpec) -> list[str]:
    """What the ModelVersion asks for and isn't there yet, by field. It is never carried out without it."""
    fields = []
    artifact, rollout = spec.artifact, spec.rollout
    image = image_of(spec)
    if image is not None:
        fields += _unmountable(image, rollout.mode)
    elif fetched_uri(spec) is not None:
        fields += _unfetchable(artifact.uri)
    elif not stays_inside(mounted_path(spec) or "."):
        fields.append(
            f"spec.artifact.uri with '..', control characters or more than {MAX_PATH} characters "
            "(name a folder below the models' folder)"
        )
    if artifact.digest is None:
        fields.append("spec.artifact.digest left out (write what windlass pack printed)")
    if rollout.mode is Mode.RESTART and rollout.steps:
        fields.append(f"spec.rollout.steps in mode {Mode.RESTART} (new Pods answer as soon as they are ready)")
    for index, step in enumerate(rollout.steps):
        fields += [
            f"spec.rollout.steps[{index}].{name}"
            for name in ("shadow", "weight", "duration")
            if getattr(step, name) is not None
        ]
        fields += [f"spec.rollout.steps[{index}].pause.{name}" for name in sorted(step.pause or {})]
    gates = rollout.gates
    for name, alias in (
        ("min_requests", "minRequests"),
        ("max_error_rate", "maxErrorRate"),
        ("max_latency_ratio", "maxLatencyRatio"),
        ("min_agreement", "minAgreement"),
    ):
        if getattr(gates, name) is not None:
            fields.append(f"spec.rollout.gates.{alias}")
    if spec.verify.samples is not None and spec.verify.samples.uri is not None:
        fields.append("spec.verify.samples.uri (use file or configMap)")
    return fields
