"""Which version answers a request: an immutable table made anew at each change, and the choice from it.

Only prepared versions are routed. The weight of one that isn't goes to a stand-in: the committed version, what served
before, the previous one. So a replica that is told to serve what it doesn't hold yet goes on with what it has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, TypeVar

from windlass_contract.plan import ModelPlan
from windlass_server.errors import Code, ServingError

T = TypeVar("T")

WHOLE = 1000
"""Weights are thousandths."""
RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True)
class Held(Generic[T]):
    """A version that this replica holds, whatever its state."""

    version: int
    digest: str
    prepared: bool
    """It may answer now."""
    was_prepared: bool
    """It could answer before; if it can't now, its worker is being started anew."""
    target: T
    """What answers; opaque here."""


@dataclass(frozen=True)
class ModelRoutes(Generic[T]):
    """One model's part of the table."""

    weights: tuple[tuple[Held[T], int], ...] = ()
    """Prepared versions and their thousandths, highest first: they sum up to `WHOLE`, or there are none."""
    wanted: bool = False
    """The plan gives the model traffic."""
    lagging: bool = False
    """The plan gives traffic to a version that isn't prepared here."""
    reachable: Mapping[int, Held[T]] = field(default_factory=dict)
    """Prepared versions that a request may name."""
    away: frozenset[int] = frozenset()
    """Versions that a request may name and whose worker is being started anew."""
    labels: Mapping[str, int] = field(default_factory=dict)
    seconds: tuple[Held[T], ...] = ()
    """Who may answer what another version failed: committed, then previous, those of them that are prepared."""
    accepted: frozenset[str] = frozenset()
    """Digests of what serves otherwise than as a candidate: it may go on while its successor isn't there yet."""

    def serving(self) -> dict[int, int]:
        """Version to thousandths."""
        return {held.version: weight for held, weight in self.weights}

    def pick(self, point: int) -> Held[T]:
        """The version at `point`, 0 to 999: the same point gives the same version as long as the weights stay."""
        for held, weight in self.weights:
            if point < weight:
                return held
            point -= weight
        raise ValueError(f"no version at this point: the weights sum up to less than {WHOLE}")


@dataclass(frozen=True)
class RoutingTable(Generic[T]):
    """Where all requests go. Replaced as a whole, by one assignment."""

    epoch: int = 0
    models: Mapping[str, ModelRoutes[T]] = field(default_factory=lambda: MappingProxyType({}))

    def choose(self, model: str, *, version: int | None = None, label: str | None = None, point: int = 0) -> Held[T]:
        """The version that answers. Raises `ServingError` with TensorFlow Serving's words."""
        routes = self.models.get(model)
        if label is not None:
            if routes is None or label not in routes.labels:
                raise ServingError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
            version = routes.labels[label]
        if version is not None:
            return _named(model, routes, version)
        if routes is None or not routes.wanted:
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: Latest({model})")
        if not routes.weights:
            raise ServingError(
                Code.UNAVAILABLE,
                f"No version of model {model} can answer now: it is being loaded, or failed; /health says more",
                retry_after=RETRY_AFTER_SECONDS,
            )
        return routes.weights[0][0] if len(routes.weights) == 1 else routes.pick(point)


def _named(model: str, routes: ModelRoutes[T] | None, version: int) -> Held[T]:
    if routes is not None and version in routes.reachable:
        return routes.reachable[version]
    if routes is not None and version in routes.away:
        raise ServingError(
            Code.UNAVAILABLE,
            f"Version {version} of model {model} is being started anew",
            retry_after=RETRY_AFTER_SECONDS,
        )
    raise ServingError(Code.NOT_FOUND, f"Servable not found for request: Specific({model}, {version})")


def planned_weights(plan: ModelPlan, *, lease_held: bool) -> dict[int, int]:
    """Version to thousandths above 0. A candidate whose lease isn't held gets none: the committed version gets it."""
    weights = {planned.version: planned.weight for planned in plan.versions if planned.weight > 0}
    if plan.lease_seconds is not None and not lease_held and plan.candidate in weights and plan.committed is not None:
        lapsed = weights.pop(plan.candidate)
        weights[plan.committed] = weights.get(plan.committed, 0) + lapsed
    return weights


@dataclass(frozen=True)
class RoutedBy(Generic[T]):
    """What a model's routes are made of, besides its routes before: made of the same anew, they are the same."""

    plan: ModelPlan
    held: list[Held[T]]
    lease_held: bool
    broken: frozenset[str]

    def same_as(self, other: RoutedBy[T] | None) -> bool:
        """Plans are immutable: another one is another object."""
        return (
            other is not None
            and self.plan is other.plan
            and (self.held, self.lease_held, self.broken) == (other.held, other.lease_held, other.broken)
        )


def route_model(
    plan: ModelPlan,
    held: Sequence[Held[T]],
    before: ModelRoutes[T] | None = None,
    *,
    lease_held: bool = False,
    broken: Collection[str] = (),
) -> ModelRoutes[T]:
    """The routes of a model under its plan, given what is held and how it was routed before. `broken`: digests whose
    breaker is open; the committed or the previous version gets their traffic, if there is one that can."""
    wanted = planned_weights(plan, lease_held=lease_held)
    digests = {planned.version: planned.digest for planned in plan.versions}
    living = {each.version: each for each in held if each.prepared and digests.get(each.version) == each.digest}
    lagging = any(version not in living for version in wanted)
    stand_in = _stand_in(plan, wanted, living, held, before)
    shares: dict[int, tuple[Held[T], int]] = {}
    seconds = tuple(living[version] for version in (plan.committed, plan.previous) if version in living)
    sound = next((each for each in seconds if each.digest not in broken), None)
    for version, weight in wanted.items():
        target = living.get(version) or stand_in
        if target is not None and target.digest in broken and sound is not None:
            target = sound
        if target is not None:
            shares[target.version] = (target, shares.get(target.version, (target, 0))[1] + weight)
    weights = tuple(sorted(shares.values(), key=lambda share: (-share[1], -share[0].version)))
    nameable = {
        planned.version
        for planned in plan.versions
        if planned.weight > 0 or planned.version == plan.previous or planned.addressable
    }
    reachable = {version: each for version, each in living.items() if version in nameable}
    reachable |= {each.version: each for each, _ in weights}
    away = {each.version for each in held if each.was_prepared and not each.prepared} & nameable - set(reachable)
    no_candidates = {planned.digest for planned in plan.versions if planned.version != plan.candidate}
    no_candidates |= before.accepted if before is not None else frozenset()
    # Labels move at the commit, and here the commit is when the version changes over, if anything serves till then.
    labels = before.labels if lagging and weights and before is not None and before.weights else plan.labels
    return ModelRoutes(
        weights=weights,
        wanted=bool(wanted),
        lagging=lagging,
        reachable=MappingProxyType(reachable),
        away=frozenset(away),
        labels=MappingProxyType(dict(labels)),
        seconds=seconds,
        accepted=frozenset(each.digest for each, _ in weights if each.digest in no_candidates),
    )


def _stand_in(
    plan: ModelPlan,
    wanted: Mapping[int, int],
    living: Mapping[int, Held[T]],
    held: Sequence[Held[T]],
    before: ModelRoutes[T] | None,
) -> Held[T] | None:
    """Who takes the weight of a version that can't answer. One that never served but as a candidate only if it has a
    weight now, and nobody else is left."""
    if plan.committed is not None and plan.committed in living:
        return living[plan.committed]
    if before is not None:
        for served, _ in before.weights:
            now = next((each for each in held if each.target == served.target), None)
            if now is not None and now.prepared and now.digest in before.accepted:
                return now
    if plan.previous is not None and plan.previous in living:
        return living[plan.previous]
    return next((living[version] for version in sorted(wanted, reverse=True) if version in living), None)
