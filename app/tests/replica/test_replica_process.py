"""A real `windlass-server` with real models and a real control endpoint: what holds while plans come and go."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import httpx
import pytest

from windlass_contract.canonical import digest_of_bytes
from windlass_contract.record import ServerState
from windlass_contract.report import VersionState
from windlass_testing.load import Load, Request
from windlass_testing.models import affine, affine_tflite, slow
from windlass_testing.one_machine import wait_until

ROW = [[1.0]]


def requests(model: str = "m") -> list[Request]:
    """y = version * x: an answer has to be its version's."""

    def check(body, version: str) -> str:
        expected = {"predictions": [[float(version)]]}
        return "" if body == expected else f"version {version} answered {body}"

    return [Request(f"/v1/models/{model}:predict", {"instances": ROW}, check)]


def three_versions(rig, model: str = "m") -> None:
    """y = version * x."""
    for version in (1, 2, 3):
        affine_tflite(rig.models, model, version, version, 0)


def _state(plan) -> str:
    """As an operator writes it."""
    return json.dumps(ServerState(server="one", plan=plan).to_dict())


def health(replica) -> dict:
    return replica.get("/health").json()


def test_versions_change_over_under_load_without_a_lost_request_and_epochs_never_go_back(rig):
    three_versions(rig)
    rig.control.publish(rig.plan(1, {1: 1000}, committed=1))
    rig.control.start()
    replica = rig.ready(rig.start())
    with Load(replica.url, requests(), rate=100) as load:
        epoch = 1
        for old, new in ((1, 2), (2, 1), (1, 3), (3, 2)):
            epoch += 1
            rig.control.publish(rig.plan(epoch, {old: 1000, new: 0}, committed=old, candidate=new, hidden=(new,)))
            rig.wait_for_state(new, VersionState.PREPARED)
            hidden = replica.predict("m", ROW, f"/versions/{new}")
            assert (hidden.status_code, hidden.json()) == (
                404,
                {"error": f"Servable not found for request: Specific(m, {new})"},
            )
            epoch += 1
            rig.control.publish(rig.plan(epoch, {old: 0, new: 1000}, committed=new, previous=old))
            wait_until(
                "it answers",
                lambda version=new: replica.predict("m", ROW).headers["X-Model-Version"] == str(version),
            )
            assert replica.predict("m", ROW, f"/versions/{old}").json() == {"predictions": [[float(old)]]}
    assert (load.lost, load.wrong, load.steps_back()) == ([], [], [])
    assert {answer.version for answer in load.answers} == {"1", "2", "3"}
    report = rig.control.report()
    assert report.plan.epoch == epoch
    assert report.models["m"].serving == {2: 1000}
    assert report.version("m", 2).counters.requests > 0


def test_told_to_commit_what_it_does_not_hold_it_goes_on_and_reports_lagging(rig):
    affine_tflite(rig.models, "m", 1, 1, 0)
    affine(rig.models, "m", 2, 2, 0, load_seconds=2)
    rig.control.publish(rig.plan(1, {1: 1000}, committed=1))
    rig.control.start()
    replica = rig.ready(rig.start())
    with Load(replica.url, requests(), rate=50) as load:
        rig.control.publish(rig.plan(2, {2: 1000}, committed=2))
        wait_until("it has the plan", lambda: rig.control.report().plan.epoch == 2)
        model = rig.control.report().models["m"]
        assert (model.lagging, model.serving) == (True, {1: 1000})
        wait_until("it has caught up", lambda: rig.control.report().models["m"].serving == {2: 1000})
        wait_until("the old one is gone", lambda: rig.state_of(1) is None)
    assert not rig.control.report().models["m"].lagging
    assert (load.lost, load.wrong, load.steps_back()) == ([], [], [])
    assert [answer.version for answer in load.answers][-1] == "2"


@pytest.mark.parametrize("source", ["its own copy", "the durable plan"])
def test_with_no_operator_in_reach_it_starts_again_on(rig, source):
    three_versions(rig)
    rig.control.publish(rig.plan(7, {2: 1000}, committed=2))
    if source == "its own copy":
        rig.control.start()
        replica = rig.ready(rig.start())
        rig.control.stop()
        replica.process.stop(signal.SIGKILL)
        replica.process.start()
    else:
        file = rig.folder / "plan.json"
        file.write_text(_state(rig.control.plan))
        replica = rig.start("--plan-file", str(file))
    rig.ready(replica)
    answer = replica.predict("m", ROW)
    assert (answer.headers["X-Model-Version"], answer.headers["X-Plan-Epoch"]) == ("2", "7")
    assert health(replica)["status"] == "degraded"
    assert "out of reach" in " ".join(health(replica)["reasons"])
    rig.control.publish(rig.plan(8, {3: 1000}, committed=3))
    rig.control.start()
    wait_until("it follows again", lambda: replica.predict("m", ROW).headers["X-Model-Version"] == "3")


def test_a_change_of_the_durable_plan_is_followed_and_damage_is_not(rig):
    three_versions(rig)
    folder = rig.folder / "mounted"
    folder.mkdir()

    def mount(name: str, content: str) -> None:
        """As the kubelet does with a ConfigMap."""
        (folder / name).mkdir()
        (folder / name / "plan.json").write_text(content)
        (folder / "..tmp").symlink_to(name)
        (folder / "..tmp").rename(folder / "..data")

    def state(epoch: int, version: int) -> str:
        return _state(rig.plan(epoch, {version: 1000}, committed=version))

    mount("..1", state(1, 1))
    (folder / "plan.json").symlink_to("..data/plan.json")
    replica = rig.ready(rig.start("--plan-file", str(folder / "plan.json"), managed=False))
    assert replica.predict("m", ROW).json() == {"predictions": [[1.0]]}
    mount("..2", state(2, 2))
    wait_until("it follows", lambda: replica.predict("m", ROW).headers["X-Model-Version"] == "2")
    mount("..3", state(3, 3).replace('"epoch": 3', '"epoch": 4'))
    wait_until("it says so", lambda: "damaged or edited" in " ".join(health(replica)["reasons"]))
    assert replica.predict("m", ROW).headers["X-Model-Version"] == "2"
    mount("..4", state(5, 3))
    wait_until("it follows again", lambda: replica.predict("m", ROW).headers["X-Model-Version"] == "3")
    wait_until("it is content", lambda: health(replica)["status"] == "ok")


def test_the_same_epoch_with_other_content_is_refused_reported_and_healed_by_a_higher_one(rig):
    three_versions(rig)
    rig.control.publish(rig.plan(3, {1: 1000}, committed=1))
    rig.control.start()
    replica = rig.ready(rig.start())
    rig.control.publish(rig.plan(3, {2: 1000}, committed=2))
    wait_until("it reports the conflict", lambda: rig.control.report().plan_conflict)
    assert replica.predict("m", ROW).headers["X-Model-Version"] == "1"
    assert "has epoch 3 too but other content" in " ".join(health(replica)["reasons"])
    rig.control.publish(rig.plan(4, {2: 1000}, committed=2))
    wait_until("it follows", lambda: replica.predict("m", ROW).headers["X-Model-Version"] == "2")
    wait_until("the conflict is over", lambda: not rig.control.report().plan_conflict)
    wait_until("it is content", lambda: health(replica)["status"] == "ok")


def test_with_a_wrong_token_it_waits_and_says_so_and_a_rotated_one_is_read_anew(rig):
    three_versions(rig)
    rig.control.publish(rig.plan(1, {1: 1000}, committed=1))
    rig.control.start()
    right = rig.control.token_file
    own = rig.folder / "own-token"
    own.write_text("another secret\n")
    replica = rig.start("--control-token-file", str(own))
    wait_until(
        "it says what is wrong", lambda: "holds no token" in " ".join(_health_or_nothing(replica).get("reasons", []))
    )
    own.write_text("another-secret\n")
    wait_until("it says what is wrong", lambda: "answered 401" in " ".join(health(replica)["reasons"]))
    assert replica.get("/health").status_code == 503
    assert not replica.ready()
    assert replica.predict("m", ROW).status_code == 404
    own.write_text(right.read_text())
    rig.ready(replica)


def _health_or_nothing(replica) -> dict:
    try:
        return health(replica)
    except httpx.HTTPError:
        return {}


def test_an_operator_that_has_no_plan_makes_it_healthy_but_not_ready(rig):
    rig.control.start()
    replica = rig.start()
    wait_until("it is healthy", lambda: _health_or_nothing(replica).get("status") == "ok")
    assert health(replica)["model"] == "none"
    assert replica.get("/readyz").status_code == 503
    assert "apply a ModelVersion" in replica.get("/readyz").json()["reasons"][0]
    assert replica.get("/livez").status_code == 200
    # What it answered holds after its end.
    rig.control.stop()
    wait_until("its end is noticed", lambda: "out of reach" in str(health(replica)))
    assert replica.get("/health").status_code == 200


def test_acceptance_samples_are_fetched_and_decide(rig):
    three_versions(rig)
    samples = {"samples": [{"name": "triple", "inputs": {"x": [1.0]}, "expect": {"values": [3.0]}}]}
    data = json.dumps(samples).encode()
    digest = digest_of_bytes(data)
    rig.control.publish(rig.plan(1, {1: 1000}, committed=1))
    rig.control.start()
    replica = rig.ready(rig.start())
    for epoch, version, state in ((2, 2, VersionState.FAILED), (3, 3, VersionState.PREPARED)):
        plan = rig.plan(epoch, {1: 1000, version: 0}, committed=1, candidate=version, samples={version: (digest, 1000)})
        rig.control.publish(plan)
        if version == 2:
            # They can't be had at first: that is no verdict.
            wait_until(
                "it waits for them",
                lambda: (
                    (seen := rig.control.report().version("m", 2))
                    and seen.failure
                    and seen.failure.reason == "SamplesUnavailable"
                ),
            )
        rig.control.publish(plan, **{digest.replace(":", "_"): data})
        rig.wait_for_state(version, state)
    assert replica.predict("m", ROW).headers["X-Model-Version"] == "1"


@pytest.mark.parametrize("phase", ["Verifying", "Loading", "WarmingUp", "Testing", "Prepared"])
def test_killed_while_a_candidate_is(rig, phase):
    affine_tflite(rig.models, "m", 1, 1, 0)
    data = b'{"samples":[{"inputs":{"x":[3.0]},"expect":{"values":[3.0]}}]}'
    digest = digest_of_bytes(data)
    match phase:
        case "Verifying":
            folder = slow(rig.models, "m", 2)
            ballast = folder / "assets.extra" / "ballast"
            ballast.parent.mkdir()
            with ballast.open("wb") as file:
                file.truncate(3 * 1024**3)  # sparse: it costs no disk, but has to be read
            _list_anew(folder)
        case "Loading":
            affine(rig.models, "m", 2, 2, 0, load_seconds=3)
        case "WarmingUp":
            import numpy as np

            three = np.array([[3.0]], np.float32)
            slow(rig.models, "m", 2, parity={"serving_default": ({"x": three}, {"y": three})})
        case _:
            slow(rig.models, "m", 2)
    rig.control.publish(rig.plan(1, {1: 1000}, committed=1))
    rig.control.start()
    replica = rig.ready(rig.start())
    samples = {2: (digest, 1000)} if phase == "Testing" else {}
    plan = rig.plan(2, {1: 1000, 2: 0}, committed=1, candidate=2, hidden=(2,), samples=samples)
    rig.control.publish(plan, **{digest.replace(":", "_"): data})
    rig.wait_for_state(2, VersionState(phase))
    replica.process.stop(signal.SIGKILL)
    rig.control.stop()
    replica.process.start()
    rig.ready(replica)
    answer = replica.predict("m", ROW)
    assert (answer.status_code, answer.headers["X-Model-Version"]) == (200, "1")
    assert answer.headers["X-Plan-Epoch"] == "2"
    assert replica.predict("m", ROW, "/versions/2").status_code == 404


def _list_anew(folder: Path) -> None:
    from windlass_contract.artifact import read_manifest
    from windlass_testing.models import write_manifest

    manifest = read_manifest(folder).manifest
    write_manifest(folder, manifest.model, manifest.version, manifest.signatures)


def test_a_graceful_stop_under_load_answers_all_that_was_sent_and_leaves_nothing_behind(rig):
    slow(rig.models, "m", 1)
    rig.control.publish(rig.plan(1, {1: 1000}, committed=1))
    rig.control.start()
    replica = rig.ready(rig.start("--drain-delay", "2"))
    half_a_second = [Request("/v1/models/m:predict", {"instances": [[0.2]]})]
    with Load(replica.url, half_a_second, rate=20) as load:
        wait_until("load is on", lambda: len(load.answers) > 10)
        family = _family(replica)
        assert len(family) >= 4
        before = time.monotonic()
        replica.process.popen.send_signal(signal.SIGTERM)
        wait_until("it isn't ready", lambda: replica.get("/readyz").status_code == 503)
        assert replica.get("/health").json()["status"] == "draining"
        assert replica.get("/livez").status_code == 200
        wait_until("the operator knows", lambda: rig.control.report().draining)
        assert replica.process.popen.wait(60) == 0, replica.process.tail()
    assert 2 <= time.monotonic() - before < 40
    lost = [answer for answer in load.lost if "ConnectionRefusedError" not in answer.error]
    assert lost == []
    assert [answer for answer in load.answers if answer.sent > before + 0.5 and not answer.lost]
    # The kernel ends what the launcher leaves, a moment after it; a zombie is the init process's to bury.
    wait_until(
        "launcher, templates and workers are gone",
        lambda: not [pid for pid, fields in _processes().items() if pid in family and fields[0] != "Z"],
        last_seen=lambda: {pid: fields for pid, fields in _processes().items() if pid in family},
    )


def _processes() -> dict[int, list[str]]:
    """What /proc/PID/stat says after the name, by pid."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(status.parent.name)] = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended meanwhile
    return found


def _family(replica) -> list[int]:
    """Pids of the replica's process and all that descend from it."""
    processes = _processes()
    family = [replica.process.popen.pid]
    for pid in family:
        family += [child for child, fields in processes.items() if int(fields[1]) == pid]
    return family


def _workers(replica) -> list[int]:
    """Pids of the replica's workers."""
    return [pid for pid in _family(replica) if Path(f"/proc/{pid}/comm").read_text().strip() == "windlass-worker"]


def test_a_second_signal_ends_it_at_once(rig):
    three_versions(rig)
    rig.control.publish(rig.plan(1, {1: 1000}, committed=1))
    rig.control.start()
    replica = rig.ready(rig.start("--drain-delay", "30"))
    replica.process.popen.send_signal(signal.SIGTERM)
    wait_until("it is stopping", lambda: not replica.ready())
    assert replica.process.stop(signal.SIGINT) == 128 + signal.SIGINT


def test_a_worker_that_dies_is_replaced_and_the_previous_version_answers_meanwhile(rig):
    three_versions(rig)
    affine(rig.models, "n", 2, 2, 0, load_seconds=2)  # long enough to be seen
    affine_tflite(rig.models, "n", 1, 1, 0)
    rig.control.publish(rig.plan(1, {1: 1000}, "n", committed=1))
    rig.control.start()
    replica = rig.ready(rig.start())
    first = set(_workers(replica))
    rig.control.publish(rig.plan(2, {2: 1000, 1: 0}, "n", committed=2, previous=1))
    wait_until("the second serves", lambda: replica.predict("n", ROW).headers["X-Model-Version"] == "2")
    (worker,) = set(_workers(replica)) - first
    os.kill(worker, signal.SIGKILL)
    wait_until("the previous one answers", lambda: replica.predict("n", ROW).headers.get("X-Model-Version") == "1")
    away = replica.predict("n", ROW, "/versions/2")
    assert away.status_code in {200, 503}  # 200 when it is back already
    assert replica.ready()
    wait_until("the second serves again", lambda: replica.predict("n", ROW).headers["X-Model-Version"] == "2")
    metrics = httpx.get(f"{replica.metrics_url}/metrics").text
    for line in (
        'windlass_version_traffic_ratio{model="n",version="2"} 1.0',
        'windlass_version_state{model="n",state="Prepared",version="1"} 1.0',
        'windlass_worker_restarts_total{model="n",version="2"} 1.0',
        "windlass_plan_epoch 2.0",
        "windlass_ready 1.0",
    ):
        assert line in metrics
    assert re.search(r'windlass_requests_total\{code="OK",model="n",version="2"\} [1-9]', metrics)
    assert re.search(r'windlass_version_memory_bytes\{model="n",version="2"\} [1-9]', metrics)


def test_without_any_plan_source_the_highest_complete_version_serves(rig):
    replica = rig.start(managed=False, server=None)
    wait_until(
        "it says what is missing", lambda: "windlass pack" in " ".join(_health_or_nothing(replica).get("reasons", []))
    )
    assert replica.get("/health").status_code == 503
    three_versions(rig)
    shutil.rmtree(rig.models / "m" / "3")
    rig.ready(replica)
    wait_until("the highest serves", lambda: replica.predict("m", ROW).headers["X-Model-Version"] == "2")
    # A copy that is under way: everything but the manifest.
    shutil.copytree(rig.models / "m" / "2", rig.models / "m" / "9", ignore=shutil.ignore_patterns("manifest.json"))
    wait_until("it is named", lambda: "windlass pack" in " ".join(health(replica)["reasons"]))
    assert f"{rig.models}/m/9" in " ".join(health(replica)["reasons"])
    with Load(replica.url, requests(), rate=50) as load:
        shutil.rmtree(rig.models / "m" / "9")
        affine_tflite(rig.models, "m", 3, 3, 0)
        wait_until("the new one serves", lambda: replica.predict("m", ROW).headers["X-Model-Version"] == "3")
    assert (load.lost, load.wrong, load.steps_back()) == ([], [], [])
    wait_until("all is well", lambda: health(replica)["status"] == "ok")
    assert list(health(replica)["models"]["m"]) == ["3"]


def test_without_a_plan_source_a_version_that_fails_makes_room_for_the_next_lower_one(rig):
    affine_tflite(rig.models, "m", 1, 1, 0)
    broken = affine_tflite(rig.models, "m", 2, 2, 0)
    (broken / "model.tflite").write_bytes(b"no model at all")
    _list_anew_tflite(broken)
    truncated = affine_tflite(rig.models, "m", 3, 3, 0)
    whole = (truncated / "model.tflite").read_bytes()
    (truncated / "model.tflite").write_bytes(whole[:-7])
    replica = rig.ready(rig.start(managed=False, server=None))
    wait_until("the lowest serves", lambda: replica.predict("m", ROW).status_code == 200)
    assert replica.predict("m", ROW).headers["X-Model-Version"] == "1"
    wait_until("the broken one is named", lambda: "m/2 failed" in " ".join(health(replica)["reasons"]))
    (truncated / "model.tflite").write_bytes(whole)
    wait_until("the completed one serves", lambda: replica.predict("m", ROW).headers["X-Model-Version"] == "3")


def _list_anew_tflite(folder: Path) -> None:
    from windlass_contract.artifact import read_manifest
    from windlass_testing.models import write_manifest

    manifest = read_manifest(folder).manifest
    write_manifest(folder, manifest.model, manifest.version, manifest.signatures, format=manifest.format)
