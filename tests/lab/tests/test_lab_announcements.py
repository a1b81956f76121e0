"""What `make lab` says before it does it: a `docker` on the PATH tells what stands, and nothing is made."""

import pytest
from windlass_lab import tools
from windlass_lab.engine import LABEL, Engine, made_of
from windlass_lab.home import State
from windlass_lab.main import Lab
from windlass_lab.steps import Step

NODES = {"windlass-control-plane": "1", "windlass-worker": "2"}
LISTED = "\n".join(f"{node} {container}" for node, container in NODES.items())
DOCKER = """#!/bin/sh
case "$*" in
  "ps "*) echo '{listed}' ;;
  "image inspect --format {{{{.Id}}}}"*) {image} ;;
  "inspect --format {{{{.Image}}}}"*) echo sha256:present ;;
  "image ls") exit {broken} ;;
esac
"""
PRESENT, OTHER, NONE = "echo sha256:present", "echo sha256:other", "echo Error: No such image: x >&2; exit 1"
RESTART = "restart the lab's Docker Engine, which stops all its containers"
CREATE = "create a kind cluster with"
ANEW = "delete the kind cluster 'windlass' and create it anew with"


@pytest.fixture
def announced(home, monkeypatch, capsys):
    """A function that gives what is announced where all Debian packages are there."""
    monkeypatch.setattr("windlass_lab.packages.missing", lambda _: [])
    monkeypatch.delenv("LAB_CLUSTER", raising=False)

    def announce(
        mode="built", *, workers=None, stood=True, listed=LISTED, image=PRESENT, current=True, lacking="", **given
    ):
        docker = DOCKER.format(listed=listed, image=image, broken=given.get("broken", 0))
        (home.bin / "docker").write_text(docker)
        (home.bin / "docker").chmod(0o755)
        nodes = {"cluster": "windlass", "workers": 1, "nodes": NODES} if stood else {}
        State(mode=mode, engine_id="1", engine_name="e", **nodes).write(home)

        def family_step(family, *_):
            return Step(family.title, lambda: family.module != lacking, lambda: None)

        monkeypatch.setattr(tools, "step", family_step)
        lab = Lab()
        monkeypatch.setattr(lab, "_image_steps", lambda: [Step("x", lambda: lacking != "images", lambda: None)])
        labels = (f"{LABEL}={home.path}", made_of(home) if current else f"{LABEL}.fingerprint=older")
        found = Engine("1", "e", "28.0", labels, "2", "/")
        own = None if given.get("stopped") else found
        lab._announce(*((None, own) if mode == "built" else (found, None)), workers)
        return capsys.readouterr().err

    return announce


@pytest.mark.parametrize(
    ("given", "restarts"),
    [({}, False), ({"current": False}, True), ({"lacking": "engine"}, True), ({"lacking": "etcd"}, False)],
)
def test_the_restart_of_a_running_engine_is_announced(announced, given, restarts):
    assert (RESTART in announced(**given)) == restarts


@pytest.mark.parametrize("mode", ["built", "system"])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, ""),
        ({"workers": 1}, ""),
        ({"workers": 3}, f"{ANEW} 3 workers: it has 1 workers"),
        ({"image": OTHER}, f"{ANEW} 1 workers: its nodes were made of another kindest/node"),
        ({"image": NONE}, f"{ANEW} 1 workers: its nodes were made of another kindest/node"),
        ({"stood": False}, f"{CREATE} 2 workers"),
        ({"listed": ""}, f"{CREATE} 1 workers"),
    ],
)
def test_what_becomes_of_the_cluster_is_announced(announced, mode, given, says):
    said = announced(mode, **given)
    assert says in said
    assert [line for line in said.splitlines() if "cluster" in line] == (
        [line for line in said.splitlines() if says in line] if says else []
    )


@pytest.mark.parametrize("lacking", ["etcd", "images"])
def test_a_cluster_of_nodes_that_will_be_built_anew_is_made_anew(announced, lacking):
    assert f"{ANEW} 1 workers: its node image is made anew" in announced(lacking=lacking)


@pytest.mark.parametrize("given", [{"stopped": True}, {"broken": 1}])
def test_of_an_engine_that_cannot_be_asked_the_nodes_are_started_or_the_cluster_made_anew(announced, given):
    assert "start the cluster's nodes again, or create it anew should their image have changed" in announced(**given)
    assert f"{ANEW} 4 workers" in announced(workers=4, **given)
