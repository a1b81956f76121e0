"""The lab from nothing, after it was taken down, after its engine was killed. Long; each test leaves it standing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from windlass_lab import engine, versions
from windlass_lab.home import Home, State, duration
from windlass_lab.testing.waiting import until

from windlass_testing.evidence import measured

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.timeout(7200)]


ENGINE = "Docker Engine"
"""The step that starts it."""

SECOND_UP = 5.0
"""Seconds that bringing up a lab which stands may take."""

HERE = str(Path(__file__).parent)

NOT_BUILT = "the soak of the lab starts and kills engines; run it with LAB=built on a machine without one"


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
        pytest.fail(NOT_BUILT)
    yield standing_lab
    command("up")


@pytest.fixture
def empty_home():
    """Where a lab is made from nothing. On a machine without one it is the lab's usual folder, and it stays.

    Otherwise it is a folder beside, and the lab that stood stands again afterwards.
    """
    usual = Home.of_environment()
    if not usual.path.exists():
        yield usual
        return
    if State.read(usual).mode == "system":
        pytest.fail(NOT_BUILT)
    beside = Home(Path("/var/tmp/windlass-lab-soak"))
    shutil.rmtree(beside.path, ignore_errors=True)
    yield beside
    command("down", LAB_HOME=str(beside.path))
    shutil.rmtree(beside.path)
    command("up")


def own_tests(**environment):
    """Runs all that the lab's own tests look at: engine, cluster, network, volumes, Compose, Swarm, Helm."""
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "lab and not soak and not alone and not unproven", HERE],
        env=os.environ | {"LAB_REQUIRED": "1"} | environment,
        check=True,
        stdout=sys.stderr,
    )


def test_it_stands_again_after_it_was_taken_down(built_lab):
    command("down")
    assert engine.daemon(built_lab.home) is None
    command("up")
    own_tests()


@pytest.mark.parametrize("victim", ["dockerd", "containerd"])
def test_it_stands_again_after_its_engine_was_killed(built_lab, victim):
    nodes = built_lab.cluster.nodes()
    before = State.read(built_lab.home).seconds
    pid = next(pid for pid, name in engine.processes_of(built_lab.home).items() if name == victim)
    os.kill(pid, signal.SIGKILL)
    command("up")
    assert built_lab.cluster.nodes() == nodes, "mended, not made anew"
    seconds = State.read(built_lab.home).seconds
    assert seconds == before | {name: seconds[name] for name in (ENGINE, built_lab.cluster.step(None).name)}
    own_tests()


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
def test_it_stands_from_nothing(empty_home):
    """No folder, no Go cache, interrupted once: the time of each step is in the output.

    A lab that stands goes only when the other one's commands are built: one engine sits at the socket at a time.
    """
    fresh = {
        "LAB_HOME": str(empty_home.path),
        "GOMODCACHE": str(empty_home.path / "go/mod"),
        "GOCACHE": str(empty_home.path / "go/cache"),
        "LAB": "built",
    }
    interrupted(empty_home.path / "logs/build-kubernetes.log", **fresh)
    command("tools", **fresh)
    if Home.of_environment().path != empty_home.path:
        command("down")
    command("up", **fresh)
    command("status", **fresh)
    seconds = State.read(empty_home).seconds
    started = time.monotonic()
    command("up", **fresh)
    again = time.monotonic() - started
    assert again < SECOND_UP, f"a second `make lab` took {again:.1f} s"
    own_tests(**fresh)
    steps = "; ".join(f"{step} {duration(took)}" for step, took in seconds.items())
    figure = f"{duration(sum(seconds.values()))}; again {again:.1f} s. Steps: {steps}"
    measured("lab", "`make lab` from nothing, interrupted in its first step", figure, "WINDLASS_EVIDENCE=1 make soak")
