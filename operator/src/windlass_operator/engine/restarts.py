"""Rollouts by a rolling update of the Pods: the plan has an entry for the Pod template's new revision, and the driver
gives the template that revision. Surge and order are the Deployment's own.

One at a time for each server: a Pod has one template. A revision is new with each rollout: Pods that are left of an
earlier one, and may be all that serves, must not follow the entry of a later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from windlass_contract.model_version import Mode
from windlass_contract.record import ModelRecord, Phase, RolloutRecord

from .desired import NO_RESTART, Claim, claim_of, desired
from .interface import SeenTemplate


@dataclass
class Restarts:
    """What a pass knows of them."""

    problem: str
    """Why the Pod template can't be changed; empty: it can."""
    back_to: str
    """The revision of the template that what is committed runs on."""
    running: str | None
    """The model that is being rolled out so."""
    attempt: int
    """Of a rollout that is started in this pass."""

    @classmethod
    def of(
        cls, template: SeenTemplate | None, ending: str | None, models: Mapping[str, ModelRecord], attempt: int
    ) -> Restarts:
        """As things stand before the pass. `ending`: the revision that the template is on its way back to."""
        if template is None:
            return cls(NO_RESTART, "", None, attempt)
        running = _running(models)
        if running is not None:
            return cls(template.problem, _back_to(models[running]), running, attempt)
        return cls(template.problem, template.revision if ending is None else ending, None, attempt)

    def wanted(self, want: Claim, committed: Claim | None) -> bool:
        """Whether a version has to be brought by new Pods: also one that replaces what needed them, since it needn't
        fit beside that."""
        if want.spec.rollout.mode is Mode.RESTART:
            return True
        return not self.problem and committed is not None and committed.spec.rollout.mode is Mode.RESTART

    def other_way(self, rollout: RolloutRecord, want: Claim, committed: Claim | None) -> bool:
        """Whether the running rollout's mode was edited: the way out for a version that doesn't fit beside the old one.
        Not once new Pods answer."""
        if not rollout.revision:
            return want.spec.rollout.mode is Mode.RESTART
        return rollout.phase is not Phase.ADMITTED and not self.wanted(want, committed)

    def free(self, model: str) -> bool:
        """Whether no other model is being rolled out so."""
        return self.running in (None, model)

    def waited_for(self, model: str, claims: Sequence[Claim], record: ModelRecord) -> str:
        """The other model whose rolling update has to end before this one's may begin; empty: none."""
        want = desired(claims, record)
        if self.free(model) or want is None or want.matches(record.committed):
            return ""
        return (self.running or "") if self.wanted(want, claim_of(claims, record.committed)) else ""

    def over(self, after: Mapping[str, ModelRecord]) -> bool:
        """Whether what ran before the pass has ended in it, so that another model's turn may come."""
        return self.running is not None and _running(after) is None

    def revision_of(self, model: str, version: int) -> str:
        """The revision of the Pod template that brings a version."""
        return f"{model.lower()}-{version}-{self.attempt}"


def template_after(
    template: SeenTemplate | None,
    ending: str | None,
    before: Mapping[str, ModelRecord],
    after: Mapping[str, ModelRecord],
) -> tuple[str | None, str | None]:
    """The revision to give the template now (None: leave it as it is), and the one to remember until it is seen there.
    `ending`: the one remembered so far.
    """
    running = _running(after)
    if running is not None:
        return _if_possible(template, _revision(after[running])), None
    ended = _running(before)
    if ended is not None:
        committed = after[ended].committed if ended in after else None
        rollout = before[ended].rollout
        arrived = committed is not None and rollout is not None and committed.digest == rollout.candidate.digest
        ending = None if arrived else _back_to(before[ended])
    if template is not None and ending == template.revision:
        ending = None
    return _if_possible(template, ending), ending


def _running(models: Mapping[str, ModelRecord]) -> str | None:
    return next((name for name in sorted(models) if _revision(models[name])), None)


def _revision(model: ModelRecord) -> str:
    return "" if model.rollout is None else model.rollout.revision


def _back_to(model: ModelRecord) -> str:
    return "" if model.rollout is None else model.rollout.back_to


def _if_possible(template: SeenTemplate | None, revision: str | None) -> str | None:
    return revision if template is not None and not template.problem else None
