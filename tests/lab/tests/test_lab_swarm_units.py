"""Whose engine is made a Swarm, and whose Swarm is left: with a `docker` that notes what it is told."""

import pytest
from windlass_lab import versions
from windlass_lab.engine import LABEL, Engine
from windlass_lab.errors import LabError
from windlass_lab.home import State
from windlass_lab.testing.docker import DockerEngine, start_swarm
from windlass_lab.testing.standing import StandingLab

DOCKER = """#!/bin/sh
echo "$*" >>{home}/told
if [ "$1" = info ]; then echo {swarm}; fi
"""


@pytest.fixture
def lab(home):
    """A function that gives a lab on an engine `answers`, where `make lab` worked with `ours`; nothing runs."""

    def describe(mode, answers, swarm, *, by_name=False):
        (home.bin / "docker").write_text(DOCKER.format(home=home.path, swarm=swarm))
        (home.bin / "docker").chmod(0o755)
        engine = Engine(answers, "laptop", "28.0", (f"{LABEL}={home.path}",), "2", "/var/lib/docker")
        state = State(mode=mode, engine_id="ours")
        return StandingLab(home, state, versions.load(), home.environment(mode), engine, by_name)

    return describe


def told(home):
    """The Swarm commands that docker was given."""
    return [line for line in (home.path / "told").read_text().splitlines() if line.startswith("swarm")]


@pytest.mark.parametrize(
    ("mode", "answers", "swarm", "by_name", "commands"),
    [
        ("built", "ours", "inactive", False, ["init"]),
        ("built", "ours", "active", False, []),
        ("built", "another", "inactive", True, ["init", "leave"]),
        ("system", "ours", "inactive", True, ["init", "leave"]),
    ],
)
def test_a_swarm_is_left_only_by_who_made_it_and_never_on_the_labs_own_engine(
    home, lab, mode, answers, swarm, by_name, commands
):
    started = start_swarm(DockerEngine(lab(mode, answers, swarm, by_name=by_name)))
    started.leave()
    assert [line.split()[1] for line in told(home)] == commands


@pytest.mark.parametrize(
    ("mode", "answers", "swarm", "by_name", "message"),
    [
        ("built", "another", "active", True, r"in a Swarm already \(active\)"),
        ("built", "another", "locked", True, r"in a Swarm already \(locked\)"),
        ("system", "ours", "active", True, r"in a Swarm already \(active\)"),
        ("built", "another", "inactive", False, "changes an engine that the lab didn't make"),
        ("system", "ours", "inactive", False, "changes an engine that the lab didn't make"),
    ],
)
def test_somebody_elses_swarm_is_not_touched(home, lab, mode, answers, swarm, by_name, message):
    with pytest.raises(LabError, match=message):
        start_swarm(DockerEngine(lab(mode, answers, swarm, by_name=by_name)))
    assert not (home.path / "told").exists() or told(home) == []
