"""What a host does next to make its plan true: one pure decision over what it holds.

At most `MAX_RESIDENT` versions of a model are resident, and one version is prepared at a time over the whole replica,
those with traffic first. What serves goes on serving until its successor is in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan

MAX_RESIDENT = 2
"""Versions of one model with a worker, those that are being loaded or unloaded included."""


@dataclass(frozen=True, order=True)
class Key:
    """Names what is held: the same version with other bytes is another one."""

    model: str
    version: int
    digest: str

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


Demand = tuple[str, int]
"""Acceptance samples to pass: their digest and the least score in thousandths."""


def demand_of(planned: PlannedVersion) -> Demand | None:
    """What a planned version has to pass before it counts as prepared."""
    return (planned.samples.digest, planned.samples.min_score) if planned.samples is not None else None


class Phase(Enum):
    """Where something held is, as far as order goes."""

    IDLE = "Idle"
    """Nothing of it is in memory: its turn hasn't come, or a retry is due."""
    PREPARING = "Preparing"
    RESIDENT = "Resident"
    """It was prepared; its worker may be away for a moment."""
    FAILED = "Failed"
    """By a verdict: it isn't tried again."""
    UNLOADING = "Unloading"


@dataclass(frozen=True)
class View:
    """One thing held."""

    key: Key
    phase: Phase
    routed: bool = False
    """Requests that name no version reach it."""
    samples: Demand | None = None
    """The acceptance samples that it is tried with, or was."""
    attempt: int = 0
    """See `PlannedVersion.attempt`: the one that it is tried in, or was."""
    due: bool = True
    """Its turn may come: no retry is being waited for."""


@dataclass(frozen=True)
class Prepare:
    """Prepare a planned version."""

    key: Key
    planned: PlannedVersion


@dataclass(frozen=True)
class Unload:
    """Take it out of memory once its requests are answered, and forget it."""

    key: Key


def keys_of(plan: ServingPlan) -> dict[Key, PlannedVersion]:
    """What the plan wants held."""
    return {
        Key(name, planned.version, planned.digest): planned
        for name, model in plan.models.items()
        for planned in model.versions
    }


def next_actions(plan: ServingPlan, held: Sequence[View]) -> list[Prepare | Unload]:
    """What to begin now. Asked anew after each change; what is already under way is seen by its phase."""
    planned = keys_of(plan)
    actions: list[Prepare | Unload] = [
        Unload(view.key)
        for view in held
        if view.phase is not Phase.UNLOADING
        and _is_over(view, planned.get(view.key))
        and not _serves_still(view, plan, held)
    ]
    if any(view.phase is Phase.PREPARING for view in held):
        return actions
    by_key = {view.key: view for view in held}
    leaving = {action.key for action in actions}
    making_room = {key.model for key in leaving} | {view.key.model for view in held if view.phase is Phase.UNLOADING}
    resident = Counter(view.key.model for view in held if view.phase in _IN_MEMORY)
    for key, version in _in_order(plan):
        view = by_key.get(key)
        if key in leaving or (view is not None and (view.phase is not Phase.IDLE or not view.due)):
            continue
        if resident[key.model] < MAX_RESIDENT:
            return [*actions, Prepare(key, version)]
        if version.weight > 0 and key.model not in making_room:
            spare = _spare(plan.models[key.model], held, key)
            if spare is not None:
                actions.append(Unload(spare))
                making_room.add(key.model)
    return actions


_IN_MEMORY = frozenset({Phase.PREPARING, Phase.RESIDENT, Phase.UNLOADING})


def _is_over(view: View, planned: PlannedVersion | None) -> bool:
    """Whether the plan has no use for it as it is: not planned, or to be tried with other samples or anew."""
    if planned is None:
        return True
    if view.phase is Phase.FAILED and planned.attempt not in {0, view.attempt}:
        # It was rejected then, and cleared since: nothing is known of it now.
        return True
    wanted = demand_of(planned)
    if wanted == view.samples:
        return False
    if wanted is None:
        # Nothing is to be shown any more: what is up stays, and what failed may be tried without.
        return view.phase is Phase.FAILED
    # A candidate that passed other samples, or the same with a lower score, has shown nothing of these.
    return not view.routed


def _serves_still(view: View, plan: ServingPlan, held: Sequence[View]) -> bool:
    """Whether it is the last that answers for a model that the plan wants served."""
    model = plan.models.get(view.key.model)
    if model is None or not any(planned.weight > 0 for planned in model.versions):
        return False
    others = [each for each in held if each.key.model == view.key.model and each is not view]
    return view.routed or (view.phase is Phase.RESIDENT and not any(each.phase is Phase.RESIDENT for each in others))


def _in_order(plan: ServingPlan) -> Iterator[tuple[Key, PlannedVersion]]:
    """What is to be held, the most urgent first: committed, with traffic, candidates, the rest; then by name."""
    keys = keys_of(plan)

    def urgency(key: Key) -> tuple[int, str, int]:
        model = plan.models[key.model]
        if keys[key].weight > 0:
            rank = 0 if key.version == model.committed else 1
        else:
            rank = 2 if key.version == model.candidate else 3
        return rank, key.model, -key.version

    for key in sorted(keys, key=urgency):
        yield key, keys[key]


def _spare(model: ModelPlan, held: Sequence[View], wanted: Key) -> Key | None:
    """What makes room for a version with traffic: something resident that has none, the candidate first."""
    resident = [
        view for view in held if view.key.model == wanted.model and view.phase is Phase.RESIDENT and not view.routed
    ]
    resident.sort(key=lambda view: (view.key.version != model.candidate, view.key.version))
    return resident[0].key if resident else None
