"""Rollouts by a rolling update of the Pods: the plan has an entry for the Pod template's new revision, and the driver
gives the template that revision. Surge and order are the Deployment's own.

One at a time for each server: a Pod has one template. A revision is new with each rollout: Pods that are left of an
earlier one, and may be all that serves, must not follow the entry of a later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from windlass_contract.model_version import Mode, ModelVersionSpec
from windlass_contract.record import ModelRecord, Phase, PodTemplate, RolloutRecord

from .desired import Claim, claim_of, desired, image_of, never
from .interface import SeenTemplate

NO_IMAGE = (
    "spec.artifact.uri is oci://, and the Pods of this server don't mount an image as their folder of models: install "
    "chart windlass-server with models.image.reference"
)


@dataclass
class Restarts:
    """What a pass knows of them."""

    template: SeenTemplate | None
    back_to: PodTemplate
    """What is committed runs on it."""
    running: str | None
    """The model that is being rolled out so."""
    attempt: int
    """Of a rollout that is started in this pass."""
    images: Mapping[str, str]
    """What models are served from, as far as their files come by an image."""

    @classmethod
    def of(
        cls, template: SeenTemplate | None, ending: PodTemplate | None, models: Mapping[str, ModelRecord], attempt: int
    ) -> Restarts:
        """As things stand before the pass. `ending`: what the template is on its way back to."""
        images = _images(models)
        running = _running(models)
        if running is not None:
            return cls(template, _back_to(models[running]), running, attempt, images)
        seen = template or SeenTemplate("")
        present = PodTemplate(revision=seen.revision, image=next(iter(images.values()), seen.image))
        return cls(template, present if ending is None else ending, None, attempt, images)

    def forbids(self, spec: ModelVersionSpec) -> str:
        """Why a version can't be brought as it asks for; empty: it can."""
        if self.template is None or spec.rollout.mode is not Mode.RESTART:
            return never(spec)
        image = image_of(spec)
        if self.template.problem or image is None:
            return self.template.problem
        if not self.template.image:
            return NO_IMAGE
        others = [name for name, other in self.images.items() if name != spec.model and other != image]
        return f"the Pods mount one image, and model {others[0]} is served from another" if others else ""

    def wanted(self, want: Claim, committed: Claim | None) -> bool:
        """Whether a version has to be brought by new Pods: also one that replaces what needed them, since it needn't
        fit beside that."""
        if want.spec.rollout.mode is Mode.RESTART:
            return True
        possible = self.template is not None and not self.template.problem
        return possible and committed is not None and committed.spec.rollout.mode is Mode.RESTART

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
    ending: PodTemplate | None,
    before: Mapping[str, ModelRecord],
    after: Mapping[str, ModelRecord],
) -> tuple[PodTemplate | None, PodTemplate | None]:
    """What to make of the template now (None: leave it), and what to remember until it is seen there.
    `ending`: what was remembered so far.
    """
    running = _running(after)
    if running is not None:
        return _if_possible(template, _bringing(after[running])), None
    ended = _running(before)
    if ended is not None:
        committed = after[ended].committed if ended in after else None
        rollout = before[ended].rollout
        arrived = committed is not None and rollout is not None and committed.digest == rollout.candidate.digest
        ending = None if arrived else _back_to(before[ended])
    if template is not None and ending is not None and _is(template, ending):
        ending = None
    if ending is None and template is not None and template.image:
        # Who installs the server anew gives the volume the image that it had at first.
        image = next(iter(_images(after).values()), template.image)
        served = PodTemplate(revision=template.revision, image=image)
        return _if_possible(template, served), None
    return _if_possible(template, ending), ending


def _is(template: SeenTemplate, wanted: PodTemplate) -> bool:
    return template.revision == wanted.revision and wanted.image in {"", template.image}


def _images(models: Mapping[str, ModelRecord]) -> dict[str, str]:
    committed = {name: models[name].committed for name in sorted(models)}
    return {name: ref.image for name, ref in committed.items() if ref is not None and ref.image is not None}


def _running(models: Mapping[str, ModelRecord]) -> str | None:
    return next((name for name in sorted(models) if _bringing(models[name]).revision), None)


def _bringing(model: ModelRecord) -> PodTemplate:
    rollout = model.rollout
    if rollout is None:
        return PodTemplate()
    return PodTemplate(revision=rollout.revision, image=rollout.candidate.image or rollout.back_to.image)


def _back_to(model: ModelRecord) -> PodTemplate:
    return PodTemplate() if model.rollout is None else model.rollout.back_to


def _if_possible(template: SeenTemplate | None, wanted: PodTemplate | None) -> PodTemplate | None:
    if template is None or template.problem or wanted is None or _is(template, wanted):
        return None
    return wanted
