"""The lab's own code, as far as it can be tried without a lab."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from windlass_lab import choice, engine, extras, images, tools, versions
from windlass_lab.cluster import configuration, moment, outlived
from windlass_lab.commands import run, run_long
from windlass_lab.errors import CommandError, LabError
from windlass_lab.home import LONGEST_HOME, SOCKET, Home, State, duration
from windlass_lab.node_image import go_text
from windlass_lab.steps import Step, fingerprint, table, take

MODULES = versions.ROOT / "modules"


# --- versions and modules ------------------------------------------------------------------------------------


def required(module):
    """What a go.mod requires: module to version."""
    text = (MODULES / module / "go.mod").read_text()
    return dict(re.findall(r"^(?:require )?\t?([\w./-]+\.[\w./-]+) (v\S+)", text, re.MULTILINE))


def everything():
    """All that is ever built."""
    return [*tools.families(versions.load()), *extras.commands(versions.load()).values()]


def test_versions_toml_and_the_go_mod_files_pin_the_same():
    pinned = versions.load().modules
    found = {
        module: version
        for family in everything()
        for module, version in required(family.module).items()
        if any(package == module or package.startswith(f"{module}/") for package in family.packages)
    }
    assert found == pinned


def test_every_family_has_the_sums_of_all_it_needs():
    assert {family.module for family in everything()} == {folder.name for folder in MODULES.iterdir()}
    for family in everything():
        assert (MODULES / family.module / "go.sum").stat().st_size > 1000, family.module
        text = (MODULES / family.module / "go.mod").read_text()
        for package in family.packages:
            assert package in text or any(package.startswith(module) for module in required(family.module)), package


def test_no_module_needs_a_newer_go_than_the_pinned_one():
    pinned = tuple(int(part) for part in versions.load().go.split("."))
    for folder in MODULES.iterdir():
        needed = re.search(r"^go (\S+)$", (folder / "go.mod").read_text(), re.MULTILINE)[1]
        assert tuple(int(part) for part in needed.split(".")) <= pinned, folder.name


def test_go_leaves_nothing_in_the_users_folder_and_keeps_what_go_env_set(home, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("GOENV", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    go = tools.Go(home, versions.load())
    command = go.command()
    if command is None:
        pytest.skip("no Go on this machine")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".config" / "go").mkdir(parents=True)
    (tmp_path / ".config" / "go" / "env").write_text("GOPRIVATE=example.org/ours\n")
    asked = run(command, "env", "GOPRIVATE", "GOTELEMETRY", environment=go.environment() | {"GOTOOLCHAIN": "local"})
    private, telemetry = asked.splitlines()
    assert private == "example.org/ours"
    assert telemetry in ("off", "")  # older ones count nothing
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["env"]


def test_commands_have_names_of_their_own():
    names = [name for family in everything() for name in family.commands().values()]
    assert len(names) == len(set(names))
    assert {"docker", "dockerd", "docker-buildx", "docker-compose", "etcd", "helm", "helm4", "kind", "kubectl"} <= set(
        names
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('const name = "quoted"', "quoted"),
        ('const name = `raw\n"text"\n`', 'raw\n"text"\n'),
        ('const other = "inner"\nconst name = `a: ` + other + `, b`\n', "a: inner, b"),
    ],
)
def test_a_constant_is_read_from_a_go_source(source, text):
    assert go_text(source, "name") == text


def test_a_constant_that_kind_no_longer_has_is_named():
    with pytest.raises(LabError, match="no constant name"):
        go_text('const names = "x"', "name")


# --- steps ---------------------------------------------------------------------------------------------------


def test_a_fingerprint_changes_with_content_names_and_order(tmp_path):
    (tmp_path / "a").write_text("1")
    first = fingerprint(tmp_path)
    assert first == fingerprint(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = fingerprint(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, fingerprint(tmp_path)}) == 3
    assert fingerprint("x", "y") != fingerprint("y", "x") != fingerprint("xy")


def test_what_is_done_is_skipped_and_what_failed_is_taken_up_again(home, capsys):
    done, acted = set(), []
    broken = {"second"}

    def step(name):
        def act():
            acted.append(name)
            if name in broken:
                raise LabError("broken")
            done.add(name)

        return Step(name, lambda: name in done, act)

    steps = [step("first"), step("second"), step("third")]
    state = State()
    with pytest.raises(LabError, match="broken"):
        take(steps, home, state)
    assert acted == ["first", "second"]
    broken.clear()
    take(steps, home, state)
    assert acted == ["first", "second", "second", "third"]
    assert set(State.read(home).seconds) == {"first", "second", "third"}
    assert "[ 1/3] first: there" in capsys.readouterr().err


def test_a_machine_without_certificates_gets_them_with_its_packages_and_is_told_where_it_does_not(home, monkeypatch):
    monkeypatch.setattr(images, "CERTIFICATES", home.path / "none.crt")
    base, *_ = images.steps(home, versions.load())
    with pytest.raises(LabError, match=r"none\.crt isn't there; install ca-certificates"):
        base.done()


def test_times_are_told_for_people():
    assert [duration(0.42), duration(59.9), duration(222)] == ["0.4 s", "59.9 s", "3 min 42 s"]
    assert table({"one": 61.0, "two": 2.0}).splitlines()[-1].split() == ["all", "1", "min", "3", "s"]


def test_an_interrupted_command_takes_its_children_along_and_says_how_to_go_on(home):
    program = f"""
import sys, windlass_lab.main as m
from pathlib import Path
from windlass_lab.commands import run_long
m._carry_out = lambda parsed: run_long("sh", "-c", "echo $$ >{home.path}/child; sleep 600", log=Path("{home.logs}/x"))
sys.exit(m.main(["status"]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(versions.ROOT)},
    ) as process:
        deadline = time.monotonic() + 60
        while not (home.path / "child").exists() or not (home.path / "child").read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child = int((home.path / "child").read_text())
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "goes on where it was" in said
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_an_interrupt_while_a_child_is_being_started_leaves_none_behind(home, monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_long("sleep", "600", log=home.path / "x")
    assert started[0].returncode == -signal.SIGKILL


# --- what is whose -------------------------------------------------------------------------------------------


def test_nothing_of_the_lab_leads_outside_its_folder(home):
    added = home.environment("built")
    assert added.pop("PATH").startswith(f"{home.bin}:")
    assert added.pop("DOCKER_HOST") == SOCKET
    assert all(value.startswith(f"{home.path}/") for value in added.values())
    given = engine.daemon_arguments(home)
    outside = {value for value in given if value.startswith("/") and not value.startswith(f"{home.path}/")}
    assert outside == {engine.INIT}


def test_the_machines_docker_configuration_is_used_with_the_machines_engine(home):
    assert not {"DOCKER_CONFIG", "DOCKER_HOST"} & set(home.environment("system"))


def test_a_folder_too_long_for_sockets_is_refused(monkeypatch):
    monkeypatch.setenv("LAB_HOME", "/tmp/" + "x" * LONGEST_HOME)
    with pytest.raises(LabError, match="LAB_HOME"):
        Home.of_environment()


def test_the_state_is_read_as_it_was_written(home):
    state = State(mode="built", engine_id="a", cluster="c", workers=2, nodes={"c-worker": "1"}, seconds={"x": 1.5})
    state.write(home)
    assert State.read(home) == state


def test_a_state_that_cannot_be_read_is_named(home):
    (home.path / "state.json").write_text("{")
    with pytest.raises(LabError, match=r"state\.json"):
        State.read(home)


@pytest.mark.parametrize(("cgroup", "patched"), [("1", True), ("2", False)])
def test_the_clusters_configuration_fits_the_machine(home, cgroup, patched):
    config = configuration(home, 2, restricted=patched, cgroup=cgroup)
    assert [node["role"] for node in config["nodes"]] == ["control-plane", "worker", "worker"]
    assert all(node["extraMounts"][0]["hostPath"] == str(home.shared) for node in config["nodes"])
    patches = [json.loads(patch)["kind"] for patch in config["kubeadmConfigPatches"]]
    assert patches == ["ClusterConfiguration", *(["KubeletConfiguration"] if patched else [])]
    assert ("containerdConfigPatches" in config) == patched
    json.dumps(config)


def test_what_is_missing_decides_for_building_and_is_told(home, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    chosen = choice.choose(home, versions.load(), State())
    assert chosen.mode == "built"
    assert "no `kind` on the PATH" in chosen.why
    monkeypatch.setenv("LAB", "system")
    with pytest.raises(LabError, match="no `docker` on the PATH"):
        choice.choose(home, versions.load(), State())


@pytest.mark.parametrize(
    ("forced", "stands", "message"),
    [("system", "built", "lab-down"), ("built", "system", "lab-down"), ("both", None, "LAB=both")],
)
def test_a_choice_that_cannot_be_is_refused(home, monkeypatch, forced, stands, message):
    monkeypatch.setenv("LAB", forced)
    with pytest.raises(LabError, match=message):
        choice.choose(home, versions.load(), State(mode=stands))


def test_a_failed_command_shows_its_end():
    with pytest.raises(CommandError, match="ended with 3") as caught:
        run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert caught.value.output == "out\nerr\n"


# --- the plugin ----------------------------------------------------------------------------------------------

PLAIN = """
import pytest

pytestmark = pytest.mark.lab

def test_one(kind_cluster): ...
def test_two(docker_engine): ...
"""


def test_without_a_lab_its_tests_are_left_out_loudly(home, run_pytest):
    code, said = run_pytest(PLAIN)
    assert code == 0
    assert "2 skipped" in said
    assert "LEFT OUT" in said
    assert "2 tests NOT run: no lab stands" in said


def pod(*, space="kube-system", node="n", states=({"running": {"startedAt": "2026-01-01T00:00:05Z"}},), **metadata):
    return {
        "metadata": {"namespace": space, "name": "dns", **metadata},
        "spec": {"nodeName": node},
        "status": {"containerStatuses": [{"state": state} for state in states]},
    }


@pytest.mark.parametrize(
    ("given", "began", "lacks"),
    [
        (pod(), "2026-01-01T00:00:04.999999999Z", False),
        (pod(), "2026-01-01T00:00:05.9Z", False),  # within the second: Kubernetes tells no more
        (pod(), "2026-01-01T00:00:06Z", True),
        (pod(states=({"waiting": {"reason": "CrashLoopBackOff"}},)), "2026-01-01T00:00:00Z", True),
        (pod(states=()), "2026-01-01T00:00:00Z", True),
        (pod(space="people"), "2026-01-01T00:00:06Z", False),
        (pod(node="elsewhere"), "2026-01-01T00:00:06Z", False),
        (pod(deletionTimestamp="2026-01-01T00:00:07Z"), "2026-01-01T00:00:06Z", False),
    ],
)
def test_what_is_told_of_pods_from_before_their_node_was_started_counts_for_nothing(given, began, lacks):
    assert outlived([given], {"n": moment(began)}) == (["pod kube-system/dns"] if lacks else [])


@pytest.mark.parametrize("name", ["CI", "LAB_REQUIRED"])
def test_where_the_lab_is_required_its_tests_fail_without_it(home, run_pytest, name):
    code, said = run_pytest(PLAIN, **{name: "1"})
    assert code == 1
    assert "2 errors" in said
    assert "this run has to have the lab" in said


def test_tests_that_a_run_deselects_are_told_as_well(home, run_pytest):
    code, said = run_pytest(PLAIN + "\ndef test_plain(): ...\n", "-m", "not lab", CI="1")
    assert code == 5
    assert "3 tests NOT run: they run with `make e2e`" in said


def test_tests_that_a_run_in_several_processes_deselects_are_told_once(home, run_pytest):
    code, said = run_pytest(PLAIN + "\n@pytest.mark.plain\ndef test_plain(): ...\n", "-m", "plain", "-n", "2", CI="1")
    assert code == 0, said
    assert "2 tests NOT run: they run with `make e2e`" in said
