"""The lab's command where no lab stands: who is refused one mode is free to take the other."""

import json
import os
import subprocess
import sys

import pytest
from windlass_lab import versions
from windlass_lab.cluster import check_name, name
from windlass_lab.home import State

AS_A_CONTRIBUTOR = """
import os, sys
os.geteuid = lambda: 1000
from windlass_lab.main import main
sys.exit(main(sys.argv[1:]))
"""
THEIR_ENGINE = json.dumps({"ID": "theirs", "Name": "laptop", "ServerVersion": "28.0"})
DOCKER = f"""#!/bin/sh
case "$1" in
  info) echo '{THEIR_ENGINE}' ;;
  image) echo '{{}}' ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """A folder that is all of the PATH: of a Debian without Docker."""
    folder = tmp_path / "bin"
    folder.mkdir()
    put(folder, "dpkg-query")
    return folder


def put(folder, *names, text="#!/bin/sh\n"):
    """Puts commands on the PATH."""
    for command in names:
        (folder / command).write_text(text)
        (folder / command).chmod(0o755)


def install_docker(machine):
    """Somebody's engine, which answers and can pull, and the other commands of `system`."""
    put(machine, "docker", text=DOCKER)
    put(machine, "kind", "kubectl", "helm")


@pytest.fixture
def lab(home, machine):
    """Runs the lab's command as somebody who isn't root; gives its exit code and what it wrote."""

    def command(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-c", AS_A_CONTRIBUTOR, *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(versions.ROOT), "PATH": str(machine), "LAB_CLUSTER": ""} | environment,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    return command


def test_who_has_no_root_is_told_before_anything_is_built_and_may_take_docker_instead(lab, home, machine):
    code, said = lab("up")
    assert code == 1
    assert "lab: built" in said
    assert "needs root; run `make lab` as root, or install Docker" in said
    assert "[ 1/" not in said
    assert State.read(home) == State()
    install_docker(machine)
    for environment in ({"LAB": "system"}, {}):
        code, said = lab("up", "--dry-run", **environment)
        assert code == 0, said
        assert "uses the Docker Engine 'laptop'" in said
    code, said = lab("down")
    assert (code, said) == (0, "no lab stands here\n")


def test_a_built_lab_that_started_nothing_is_taken_down_without_root_beside_another_engine(lab, home, machine):
    install_docker(machine)
    State(mode="built", seconds={"Debian packages": 1.0}).write(home)
    code, said = lab("up", LAB="system")
    assert code == 1
    assert "run `make lab-down` first" in said
    code, said = lab("down")
    assert code == 0, said
    assert "nothing to take away" in said
    assert State.read(home) == State(seconds={"Debian packages": 1.0})
    code, said = lab("up", "--dry-run", LAB="system")
    assert code == 0, said


def test_a_built_lab_that_ran_is_not_forgotten_while_another_engine_sits_at_its_socket(lab, home, machine):
    install_docker(machine)
    stood = State(mode="built", engine_id="ours", engine_name="ours")
    stood.write(home)
    code, said = lab("down")
    assert code == 1
    assert "which this lab didn't start" in said
    assert State.read(home) == stood


def test_a_cluster_of_theirs_is_found_before_anything_is_pulled_and_nothing_is_noted(lab, home, machine):
    install_docker(machine)
    put(machine, "docker", text=DOCKER.replace("esac", "  ps) echo 'windlass-control-plane 123' ;;\nesac"))
    code, said = lab("up", LAB="system")
    assert code == 1
    assert "a kind cluster 'windlass' that this lab didn't make" in said
    assert "[ 1/" not in said
    assert State.read(home) == State()


def test_a_lab_is_noted_before_its_cluster_is_made_so_that_down_finds_what_was_half_made(lab, home, machine):
    install_docker(machine)
    put(machine, "kind", text="#!/bin/sh\necho no room\n[ $1 = delete ]\n")
    code, said = lab("up", LAB="system")
    assert code == 1
    assert "no room" in said
    noted = State.read(home)
    assert (noted.mode, noted.engine_id, noted.engine_name) == ("system", "theirs", "laptop")
    assert (noted.cluster, noted.nodes) == ("windlass", {})
    put(machine, "docker", text=DOCKER.replace("esac", "  ps) echo 'windlass-control-plane 123' ;;\nesac"))
    code, said = lab("up")
    assert "deleting the kind cluster windlass to create it anew: its creation was interrupted" in said
    code, said = lab("up", LAB="built")
    assert "run `make lab-down` first" in said
    put(machine, "kind")
    code, said = lab("down")
    assert code == 0, said
    assert "kind cluster windlass deleted" in said
    assert State.read(home).mode is None


def test_another_cluster_is_refused_while_one_stands_and_down_takes_the_one_that_stands(lab, home, machine):
    install_docker(machine)
    put(machine, "docker", text=DOCKER.replace("esac", "  ps) echo 'first-control-plane 123' ;;\nesac"))
    put(machine, "kind", text=f'#!/bin/sh\necho "$@" >>{machine}/said-to-kind\n')
    state = State(mode="system", engine_id="theirs", cluster="first", workers=2, nodes={"first-control-plane": "123"})
    state.write(home)
    code, said = lab("up", LAB_CLUSTER="second")
    assert code == 1
    assert "stands with the kind cluster 'first'; run `make lab-down` first" in said
    assert State.read(home) == state
    code, said = lab("down", LAB_CLUSTER="second")
    assert code == 0, said
    assert "delete cluster --name first" in (machine / "said-to-kind").read_text()
    code, said = lab("up", "--dry-run", LAB_CLUSTER="first")
    assert "that this lab didn't make" in said


@pytest.mark.parametrize(
    ("asked", "state", "named"),
    [
        (None, State(), "windlass"),
        ("mine", State(), "mine"),
        (None, State(mode="system", cluster="mine"), "mine"),
        ("mine", State(mode="system", cluster="mine"), "mine"),
        ("mine", State(mode="system"), "mine"),
        ("mine", State(cluster="gone"), "mine"),
    ],
)
def test_the_cluster_that_stands_keeps_its_name(asked, state, named, monkeypatch):
    monkeypatch.delenv("LAB_CLUSTER", raising=False)
    if asked:
        monkeypatch.setenv("LAB_CLUSTER", asked)
    check_name(state)
    assert name(state) == named
