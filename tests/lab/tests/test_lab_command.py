"""The lab's command on the lab that stands, and what it keeps its hands off."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from windlass_lab import versions
from windlass_lab.cluster import Cluster
from windlass_lab.errors import LabError
from windlass_lab.home import State, duration
from windlass_lab.testing.docker import DockerEngine, start_swarm
from windlass_lab.testing.standing import check_cluster, find

from windlass_testing.evidence import measured

pytestmark = pytest.mark.lab


def command(*arguments, **environment):
    """Runs the lab's command; gives its exit code and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "windlass_lab", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(versions.ROOT)} | environment,
        timeout=900,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.alone
@pytest.mark.evidence
def test_a_second_start_changes_nothing_and_takes_under_five_seconds(kind_cluster, standing_lab):
    def seen():
        uids = kind_cluster.kubectl("get", "nodes", "--output=jsonpath={.items[*].metadata.uid}")
        return State.read(standing_lab.home), uids

    before = seen()
    took = []
    for _ in range(3):
        start = time.monotonic()
        code, said = command("up")
        took.append(time.monotonic() - start)
        assert code == 0, said
        assert " …" not in said
    assert min(took) < 5
    assert seen() == before
    workers = standing_lab.state.workers
    what = f"`make lab` where it stands ({standing_lab.mode}, {workers} workers), the fastest of three"
    measured("lab", what, f"{min(took):.1f} s", "make e2e-alone")


@pytest.mark.evidence
def test_the_time_of_each_step_is_kept(standing_lab):
    seconds = standing_lab.state.seconds
    steps = "; ".join(f"{step} {duration(took)}" for step, took in seconds.items())
    what = f"`make lab` ({standing_lab.mode}): each step when it last had something to do"
    measured("lab", what, f"{duration(sum(seconds.values()))}: {steps}", "make e2e-alone")
    assert f"kind cluster {standing_lab.cluster.name}, {standing_lab.state.workers} workers" in seconds


def test_status_tells_what_stands(kind_cluster, standing_lab):
    code, said = command("status")
    assert code == 0, said
    assert f"{standing_lab.state.workers} workers: ready" in said


def test_a_dry_run_where_it_stands_announces_no_restart_and_for_another_size_another_cluster(
    kind_cluster, standing_lab
):
    code, said = command("up", "--dry-run")
    assert code == 0, said
    assert "will" not in said
    other = (standing_lab.state.workers + 1) % 6
    code, said = command("up", "--dry-run", f"--workers={other}")
    assert code == 0, said
    assert f"delete the kind cluster {kind_cluster.name!r} and create it anew with {other} workers" in said
    assert standing_lab.cluster.is_ours()


def test_a_dry_run_of_another_lab_says_what_it_would_do_or_why_not(standing_lab, home):
    if standing_lab.state.mode == "built":
        code, said = command("up", "--dry-run", LAB="built", LAB_HOME=str(home.path))
        assert code == 1
        assert "which this lab didn't start" in said
    code, said = command("status", LAB_HOME=str(home.path))
    assert code == 1
    assert "no lab stands" in said


def test_an_engine_that_the_lab_did_not_make_is_refused_unless_named(standing_lab, home, monkeypatch):
    State(mode="built", engine_id="another", engine_name="elsewhere").write(home)
    with pytest.raises(LabError, match="isn't the one that the lab works with"):
        find()
    monkeypatch.setenv("LAB_ALLOW_ENGINE", "not-its-name")
    with pytest.raises(LabError, match="isn't the one that the lab works with"):
        find()
    monkeypatch.setenv("LAB_ALLOW_ENGINE", standing_lab.engine.name)
    assert find().engine.id == standing_lab.engine.id


def test_a_cluster_that_the_lab_did_not_make_is_refused_and_never_deleted(kind_cluster, standing_lab):
    state = replace(standing_lab.state, mode="system", nodes={"windlass-control-plane": "another"})
    with pytest.raises(LabError, match="isn't the one that the lab made"):
        check_cluster(replace(standing_lab, state=state))
    foreign = Cluster(standing_lab.home, standing_lab.versions, state, standing_lab.environment)
    with pytest.raises(LabError, match="stays"):
        foreign.delete()
    with pytest.raises(LabError, match="didn't make"):
        foreign.step(None).act()
    assert standing_lab.cluster.is_ours()


def test_somebody_elses_engine_is_made_no_swarm(standing_lab):
    other = replace(standing_lab, state=replace(standing_lab.state, mode="system"))
    with pytest.raises(LabError, match="changes an engine that the lab didn't make"):
        start_swarm(DockerEngine(other))


FAILING = """
import pytest

@pytest.mark.lab
def test_fails(namespace):
    namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "says"}, "spec": {"containers": [
        {"name": "app", "image": "IMAGE", "imagePullPolicy": "Never", "command": ["echo", "my last words"]}]}})
    ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated}"
    namespace.kubectl("wait", ended, "pod/says", "--timeout=60s")
    assert namespace.name == "something else"
"""


def test_a_failed_test_leaves_logs_events_and_descriptions(app_image, standing_lab, run_pytest):
    code, said = run_pytest(FAILING.replace("IMAGE", app_image))
    assert code == 1
    folder = max((standing_lab.home.path / "failures").glob("*-test_fails"), key=lambda path: path.stat().st_mtime)
    assert str(folder) in said
    assert "my last words" in (folder / "says.app.log").read_text()
    assert "Scheduled" in (folder / "events.txt").read_text()
    assert "my last words" in (folder / "pods-described.txt").read_text()
