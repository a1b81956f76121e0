"""The lab from nothing, after it was taken down, after its engine was killed. Long; each test leaves it standing."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from windlass_lab import engine, versions
from windlass_lab.home import Home, State, duration
from windlass_lab.testing.waiting import until

from windlass_testing.evidence import measured

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.timeout(7200)]


ENGINE = "Docker Engine"
"""The step that starts it."""


def command(*arguments, **environment):
    """Runs the lab's command, shows what it says, and wants it to succeed."""
    subprocess.run(
        [sys.executable, "-m", "windlass_lab", *arguments],
        env=os.environ | {"PYTHONPATH": str(versions.ROOT)} | environment,
        check=True,
        stdout=sys.stderr,
    )


@pytest.fixture
def built_lab(standing_lab):
    """A lab whose engine is its own to kill; it stands again afterwards."""
    if standing_lab.state.mode != "built":
        pytest.fail("the soak of the lab starts and kills engines; run it with LAB=built on a machine without one")
    yield standing_lab
    command("up")


def pod_runs(lab):
    """Whether a Pod of the cluster's own DNS is ready: the nodes, the network and the API server work."""
    cluster = lab.cluster
    cluster.state = State.read(lab.home)
    return cluster.stands(None)


def test_it_stands_again_after_it_was_taken_down(built_lab):
    command("down")
    assert engine.daemon(built_lab.home) is None
    command("up")
    assert pod_runs(built_lab)


@pytest.mark.parametrize("victim", ["dockerd", "containerd"])
def test_it_stands_again_after_its_engine_was_killed(built_lab, victim):
    nodes = built_lab.cluster.nodes()
    before = State.read(built_lab.home).seconds
    pid = next(pid for pid, name in engine.processes_of(built_lab.home).items() if name == victim)
    os.kill(pid, signal.SIGKILL)
    command("up")
    assert pod_runs(built_lab)
    assert built_lab.cluster.nodes() == nodes, "mended, not made anew"
    seconds = State.read(built_lab.home).seconds
    assert seconds == before | {name: seconds[name] for name in (ENGINE, built_lab.cluster.step(None).name)}


def interrupted(log, **environment):
    """Starts `tools`, sends it a Ctrl-C as soon as a tool is being built, and wants nothing of it left running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "windlass_lab", "tools"],
        env=os.environ | {"PYTHONPATH": str(versions.ROOT)} | environment,
        stdout=sys.stderr,
        start_new_session=True,
    )
    until(f"{log} is there", log.exists, timeout=300)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert str(log.parents[1]) not in subprocess.run(["ps", "axo", "args"], capture_output=True, text=True).stdout


@pytest.mark.evidence
def test_it_stands_from_nothing(built_lab):
    """No folder, no Go cache, interrupted once: the time of each step is in the output.

    The lab that stands goes only when the other one's commands are built: one engine sits at the socket at a time.
    """
    empty = Path("/var/tmp/windlass-lab-soak")
    shutil.rmtree(empty, ignore_errors=True)
    fresh = {
        "LAB_HOME": str(empty),
        "GOMODCACHE": str(empty / "go/mod"),
        "GOCACHE": str(empty / "go/cache"),
        "LAB": "built",
    }
    try:
        interrupted(empty / "logs/build-kubernetes.log", **fresh)
        command("tools", **fresh)
        command("down")
        command("up", **fresh)
        command("status", **fresh)
        command("up", **fresh)
        seconds = State.read(Home(empty)).seconds
    finally:
        command("down", **fresh)
        shutil.rmtree(empty)
    steps = "; ".join(f"{step} {duration(took)}" for step, took in seconds.items())
    figure = f"{duration(sum(seconds.values()))}: {steps}"
    measured("lab", "`make lab` from nothing, interrupted in its first step", figure, "WINDLASS_EVIDENCE=1 make soak")
