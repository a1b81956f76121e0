"""Which of several plans to follow: pure, the same whatever they come from and in whatever order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from windlass_contract.plan import ServingPlan


@dataclass(frozen=True)
class Offer:
    """A plan and where it was found."""

    plan: ServingPlan
    source: str
    """For people: a URL or a file."""


@dataclass(frozen=True)
class Choice:
    """What came of some offers."""

    plan: ServingPlan | None
    """The plan to follow from now on; None when what is held stays."""
    source: str = ""
    conflict: bool = False
    """Somebody offered the epoch that is followed with other content."""
    refusals: Mapping[str, str] = field(default_factory=dict)
    """By source, why its offer was refused, with the remedy. An older epoch is no reason to speak of."""


def choose(server: str, held: ServingPlan | None, offers: Sequence[Offer]) -> Choice:
    """The offer with the highest epoch, if it is higher than the held one's. Of two with the same epoch the first
    counts, and the other is a conflict, which only a higher epoch heals.
    """
    refusals: dict[str, str] = {}
    best: Offer | None = None
    for offer in offers:
        if offer.plan.server != server:
            refusals[offer.source] = (
                f"the plan of {offer.source} is for server {offer.plan.server!r}, this replica belongs to {server!r}: "
                "correct --server, or the source"
            )
            continue
        present = best.plan if best is not None else held
        if present is None or offer.plan.epoch > present.epoch:
            best = offer
    followed = best.plan if best is not None else held
    conflict = False
    for offer in offers:
        if (
            followed is not None
            and offer.plan.server == server
            and offer.plan.epoch == followed.epoch
            and offer.plan.digest != followed.digest
        ):
            conflict = True
            refusals[offer.source] = (
                f"the plan of {offer.source} has epoch {offer.plan.epoch} too but other content "
                f"({offer.plan.digest[:19]}…, followed is {followed.digest[:19]}…): two operators wrote it, or it was "
                "edited; the operator heals it with a higher epoch"
            )
    return Choice(
        plan=best.plan if best is not None else None,
        source=best.source if best is not None else "",
        conflict=conflict,
        refusals=refusals,
    )
