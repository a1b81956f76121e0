"""Mode Restart: what the Pod template has to be after a pass, given what it was and what the record says."""

from __future__ import annotations

import pytest
from engine_builders import MODEL, digest
from restart_builders import NEW, OLD, at

from windlass_contract.record import ModelRecord, PodTemplate, RolloutRecord, VersionRef
from windlass_operator.engine.interface import SeenTemplate
from windlass_operator.engine.restarts import template_after


def _record(
    rollout: str | None = None, back_to: str = "", committed: int = 1, images: bool = False
) -> dict[str, ModelRecord]:
    def ref(version: int) -> VersionRef:
        image = {1: OLD, 2: NEW}[version] if images else None
        return VersionRef(version=version, digest=digest(version), image=image)

    before = PodTemplate(revision=back_to, image=OLD if images else "")
    running = None if rollout is None else RolloutRecord(candidate=ref(2), revision=rollout, back_to=before)
    return {MODEL: ModelRecord(committed=ref(committed), rollout=running)}


@pytest.mark.parametrize(
    ("seen", "ending", "before", "after", "expected"),
    [
        ("", None, _record(), _record(), (None, None)),
        ("", None, _record(), _record("r2"), ("r2", None)),
        ("r2", None, _record("r2", "r1"), _record("r2", "r1"), (None, None)),
        ("r2", None, _record("r2", "r1"), _record(committed=2), (None, None)),
        ("r2", None, _record("r2", "r1"), _record(), ("r1", "r1")),
        ("r2", "r1", _record(), _record(), ("r1", "r1")),
        ("r1", "r1", _record(), _record(), (None, None)),
        ("by hand", None, _record(), _record(), (None, None)),
        ("r2", "r1", _record(), _record("r3", "r1"), ("r3", None)),
    ],
)
def test_the_template_after_a_pass(seen, ending, before, after, expected) -> None:
    assert template_after(SeenTemplate(seen), at(ending), before, after) == tuple(map(at, expected))


@pytest.mark.parametrize(
    ("seen", "ending", "before", "after", "expected"),
    [
        (("", OLD), None, _record(images=True), _record("r2", images=True), (at("r2", NEW), None)),
        (("r2", OLD), None, _record("r2", images=True), _record("r2", images=True), (at("r2", NEW), None)),
        (("r2", NEW), None, _record("r2", images=True), _record("r2", images=True), (None, None)),
        (("r2", NEW), None, _record("r2", images=True), _record(committed=2, images=True), (None, None)),
        (("r2", NEW), None, _record("r2", images=True), _record(images=True), (at("", OLD), at("", OLD))),
        (("", NEW), at("", OLD), _record(images=True), _record(images=True), (at("", OLD), at("", OLD))),
        (("", OLD), at("", OLD), _record(images=True), _record(images=True), (None, None)),
        # Somebody installed the server anew, which gave the volume its first image.
        (
            ("r2", OLD),
            None,
            _record(committed=2, images=True),
            _record(committed=2, images=True),
            (at("r2", NEW), None),
        ),
        # What serves lies in no image of ours.
        (("r2", OLD), None, _record(), _record(), (None, None)),
    ],
)
def test_the_image_of_the_template_after_a_pass(seen, ending, before, after, expected) -> None:
    template = SeenTemplate(seen[0], image=seen[1])
    assert template_after(template, ending, before, after) == expected


@pytest.mark.parametrize("template", [None, SeenTemplate("r2", "it may not")])
def test_a_template_that_cant_be_changed_now_is_remembered(template: SeenTemplate | None) -> None:
    assert template_after(template, None, _record(), _record("r2", "r1")) == (None, None)
    assert template_after(template, None, _record("r2", "r1"), _record()) == (None, at("r1"))
    assert template_after(template, at("r1"), _record(), _record()) == (None, at("r1"))
