"""Rollouts by a rolling update of the Pods: the plan has an entry for the Pod template's new revision, and the driver
gives the template that revision. Surge and order are the Deployment's own.

One at a time for each server: a Pod has one template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from windlass_contract.model_version import Mode
from windlass_contract.record import ModelRecord

from .desired import NO_RESTART, Claim
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

    @classmethod
    def of(cls, template: SeenTemplate | None, ending: str | None, models: Mapping[str, ModelRecord]) -> Restarts:
        """As things stand before the pass. `ending`: the revision that the template is on its way back to."""
        if template is None:
            return cls(NO_RESTART, "", None)
        for name, model in models.items():
            if model.rollout is not None and model.rollout.revision:
                return cls(template.problem, model.rollout.back_to, name)
        return cls(template.problem, template.revision if ending is None else ending, None)

    def wanted(self, want: Claim, committed: Claim | None) -> bool:
        """Whether a version has to be brought by new Pods: also one that replaces what needed them, since it needn't
        fit beside that."""
        if want.spec.rollout.mode is Mode.RESTART:
            return True
        return not self.problem and committed is not None and committed.spec.rollout.mode is Mode.RESTART

    def free(self, model: str) -> bool:
        """Whether no other model is being rolled out so."""
        return self.running in (None, model)


def revision_of(model: str, want: Claim) -> str:
    """The revision of the Pod template that brings a version."""
    return f"{model.lower()[:200]}-{want.version}-{(want.digest or '')[7:15]}"


def template_after(
    template: SeenTemplate | None,
    ending: str | None,
    before: Mapping[str, ModelRecord],
    after: Mapping[str, ModelRecord],
) -> tuple[str | None, str | None]:
    """The revision to give the template now (None: leave it as it is), and the one to remember until it is seen there.
    `ending`: the one remembered so far.
    """
    if template is None:
        return None, None
    for model in after.values():
        if model.rollout is not None and model.rollout.revision:
            return model.rollout.revision, None
    for name, model in before.items():
        if model.rollout is not None and model.rollout.revision:
            committed = after[name].committed if name in after else None
            arrived = committed is not None and committed.digest == model.rollout.candidate.digest
            ending = None if arrived else model.rollout.back_to
    if ending == template.revision:
        ending = None
    return ending, ending
