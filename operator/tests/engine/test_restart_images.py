"""Mode Restart: versions that lie in images, which new Pods mount."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_builders import MODEL, Cluster, decision, failure, model_version
from restart_builders import NEW, OLD, RESTART, entry, revision

from windlass_contract.failures import Reason
from windlass_operator.engine import reconcile
from windlass_operator.engine.interface import SeenTemplate


def with_images() -> Cluster:
    """Version 1 serves from the image that the server was installed with."""
    made = Cluster("a", "b", orchestrated=True)
    made.template = SeenTemplate("", image=OLD)
    return made.serves(model_version(1))


def test_new_pods_mount_the_image_of_a_version() -> None:
    made = with_images()
    made.model_versions.append(model_version(2, uri=f"oci://{NEW}", rollout=RESTART))
    made.settle()
    assert (revision(made), made.template.image) == (f"{MODEL}-2", NEW)
    planned = entry(made).versions[0]
    assert (planned.uri, planned.path) == (None, None), "nobody fetches it: it is mounted at its place"
    made.restart("a", "c")
    made.restart("b", "d")
    made.settle()
    assert (made.committed, made.model.committed.image) == (2, NEW)
    made.template = SeenTemplate(made.template.revision, image=OLD)
    made.settle()
    assert made.template.image == NEW, "what serves is mounted, whatever the server was installed with"


def test_back_from_an_image_is_back_to_the_one_before() -> None:
    made = with_images()
    made.model_versions.append(model_version(2, uri=f"oci://{NEW}", rollout=RESTART))
    made.settle()
    made.failures["c", 2] = failure(Reason.LOAD_FAILED)
    made.restart("a", "c")
    made.settle()
    assert (made.template.revision, made.template.image) == ("", OLD)
    assert made.record.template is None


def test_an_undo_of_what_lies_in_an_image_mounts_the_one_before() -> None:
    made = Cluster("a", "b", orchestrated=True)
    made.template = SeenTemplate("", image=OLD)
    made.model_versions.append(model_version(1, uri=f"oci://{OLD}", rollout=RESTART))
    made.settle()
    for version, image in ((1, OLD), (2, NEW)):
        assert (revision(made), made.template.image) == (f"{MODEL}-{version}", image)
        made.restart(made.replicas[0], f"c{version}")
        made.restart(made.replicas[1], f"d{version}")
        made.settle()
        assert made.committed == version
        if version == 1:
            made.model_versions.append(model_version(2, uri=f"oci://{NEW}", rollout=RESTART))
            made.settle()
    made.decisions.append(decision("undo", 2))
    made.settle()
    assert (revision(made), made.template.image, made.committed) == (f"{MODEL}-1", OLD, 2)
    made.restart("c2", "e")
    made.restart("d2", "f")
    made.settle()
    assert (made.committed, made.status(2).phase) == (1, "Held")


def test_an_image_is_known_again_when_the_record_was_lost() -> None:
    made = with_images()
    made.model_versions.append(model_version(2, uri=f"oci://{NEW}", rollout=RESTART))
    made.settle()
    made.restart("a", "c")
    made.settle()
    outcome = reconcile(replace(made.observe(1.0), record=None, plan=None))
    rollout = outcome.record.models[MODEL].rollout
    assert (rollout.candidate.image, outcome.template) == (NEW, None)


@pytest.mark.parametrize(
    ("uri", "image", "mode", "reason", "said"),
    [
        (f"oci://{NEW}", "", "Restart", "ModeNotSupported", "models.image.reference"),
        (f"oci://{NEW}", OLD, "InPlace", "NotSupported", "use Restart"),
        ("oci://", OLD, "Restart", "NotSupported", "names no image"),
        ("oci://a b", OLD, "Restart", "NotSupported", "names no image"),
    ],
)
def test_an_image_that_cant_be_mounted_is_refused(uri, image, mode, reason, said) -> None:
    made = Cluster("a", orchestrated=True)
    made.template = SeenTemplate("", image=image)
    made.serves(model_version(1))
    made.model_versions.append(model_version(2, uri=uri, rollout={"mode": mode}))
    made.settle()
    assert made.condition(2, "Stalled") == ("True", reason)
    assert said in made.status(2).message


def test_one_image_serves_all_models_of_a_server() -> None:
    made = with_images()
    made.model_versions.append(model_version(2, uri=f"oci://{NEW}", rollout=RESTART))
    made.settle()
    made.restart("a", "c")
    made.restart("b", "d")
    made.settle()
    made.model_versions.append(model_version(7, model="dogs", uri="oci://models/dogs:7", rollout=RESTART))
    made.model_versions.append(model_version(7, model="birds", uri=f"oci://{NEW}", rollout=RESTART))
    made.settle()
    assert "model cats-dogs is served from another" in made.status(7, "dogs-7").message
    assert revision(made) == "birds-7", "it is in the same image"
