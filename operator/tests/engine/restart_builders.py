"""A server whose versions come by new Pods, as the tests of mode Restart build it."""

from __future__ import annotations

from engine_builders import MODEL, Cluster, model_version

from windlass_contract.plan import ModelPlan
from windlass_contract.record import PodTemplate
from windlass_operator.engine.interface import SeenTemplate

RESTART = {"mode": "Restart"}
OLD, NEW = "models/m:1", "models/m:2"
"""Images that hold versions."""


def cluster(*replicas: str) -> Cluster:
    """Version 1 serves, on a template that nobody of ours changed."""
    made = Cluster(*(replicas or ("a", "b")), orchestrated=True)
    made.template = SeenTemplate("")
    return made.serves(model_version(1))


def restarting() -> Cluster:
    """Version 2 is on its way by new Pods; none is there yet."""
    made = cluster()
    made.model_versions.append(model_version(2, rollout=RESTART))
    made.settle()
    return made


def revision(made: Cluster) -> str:
    """Of the template; its end, the epoch at the rollout's start, is cut off."""
    assert made.template is not None
    return made.template.revision.rpartition("-")[0]


def entry(made: Cluster) -> ModelPlan:
    """What new Pods follow."""
    assert made.template is not None
    return made.plan.models[MODEL].of_revision(made.template.revision)


def at(revision: str | None, image: str = "") -> PodTemplate | None:
    return None if revision is None else PodTemplate(revision=revision, image=image)
