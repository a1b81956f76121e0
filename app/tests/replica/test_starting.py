"""Settings, and what keeps a replica from starting: each in words that name the flag and the remedy."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from windlass_server import command_line
from windlass_server.hosting.cpus import available_cpus, cpus_beside_requests, loading_cpus
from windlass_server.hosting.launcher import Launcher, LauncherError
from windlass_server.hosting.likely_runtime import likely_runtime
from windlass_server.hosting.memory import Room
from windlass_server.main import resident_settings
from windlass_server.settings import Settings
from windlass_testing.one_machine import BIN, free_port

MANAGED = ["--server", "one", "--operator", "http://127.0.0.1:1", "--control-token-file", "/token"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
    return subprocess.run(
        [str(BIN / "windlass-server"), *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_lists_every_setting_with_its_variable(capsys):
    with pytest.raises(SystemExit) as left:
        command_line.parse(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert f"WINDLASS_{name.upper()}" in shown
        assert " ".join(field.description.split())[:30] in shown


def test_a_flag_goes_before_a_variable_before_the_default(monkeypatch):
    monkeypatch.setenv("WINDLASS_PORT", "1234")
    monkeypatch.setenv("WINDLASS_QUEUE_LENGTH", "")
    settings = command_line.parse(["--metrics-port", "99"])
    assert (settings.port, settings.metrics_port, settings.queue_length) == (1234, 99, 256)
    assert command_line.parse(["--port", "5"]).port == 5
    assert command_line.parse(["--strict-tfs"]).strict_tfs is True


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "70000"], "--port (WINDLASS_PORT) is '70000': "),
        (["--operator", "operator:8010"], "a URL is expected, as in http://operator:8010"),
        (["--operator", "http://o", "--control-token-file", "t"], "--server (WINDLASS_SERVER) is missing"),
        (["--plan-file", "p"], "--server (WINDLASS_SERVER) is missing"),
        (["--server", "One_"], "--server (WINDLASS_SERVER) is 'One_': write at most 63 small letters, digits"),
        (["--server", "one", "--operator", "http://o"], "--operator and --control-token-file are given together"),
        (["--tls-key-file", "k"], "--tls-certificate-file and --tls-key-file are given together"),
        (["--drain-delay", "60"], "--drain-delay has to be shorter than --stop-grace-period"),
        (["--loading-cpus", "0"], "--loading-cpus (WINDLASS_LOADING_CPUS) is '0'"),
        (["--threads", "0"], "--threads (WINDLASS_THREADS) is '0'"),
        (["--max-batch-size", "33"], "--max-batch-size (WINDLASS_MAX_BATCH_SIZE) is '33'"),
        (["--request-deadline", "0"], "--request-deadline (WINDLASS_REQUEST_DEADLINE) is '0'"),
    ],
)
def test_wrong_settings_are_named_by_flag_and_variable(capsys, arguments, told):
    with pytest.raises(SystemExit) as left:
        command_line.parse(arguments)
    assert left.value.code == 2
    assert told in capsys.readouterr().err


def test_what_a_version_is_given_follows_the_processors_unless_it_is_set():
    def given(*arguments: str):
        made = resident_settings(command_line.parse(arguments), Room(0))
        return made.threads, made.preparing_cpus, made.preparing_cpus_beside_requests, made.max_batch_size

    assert given() == (available_cpus(), loading_cpus(), cpus_beside_requests(), 32)
    assert given("--threads", "3", "--loading-cpus", "0.5", "--max-batch-size", "1") == (3, 0.5, 0.5, 1)


def test_state_has_a_place_of_its_own_per_replica(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert command_line.parse([]).state_folder == Path("/state/windlass-server/default/8000")
    assert command_line.parse([*MANAGED, "--port", "1"]).state_folder == Path("/state/windlass-server/one/1")
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", "/home/x")
    assert command_line.parse([]).state_folder == Path("/home/x/.local/state/windlass-server/default/8000")


def test_replicas_of_one_machine_are_told_apart_by_their_ports(monkeypatch):
    monkeypatch.delenv("WINDLASS_REPLICA", raising=False)
    monkeypatch.delenv("WINDLASS_PORT", raising=False)
    host = socket.gethostname()
    assert command_line.parse([]).replica == host
    assert command_line.parse(["--port", "8100"]).replica == f"{host}-8100"
    assert command_line.parse(["--port", "8100", "--replica", "one"]).replica == "one"


def test_a_missing_folder_of_models_is_named(tmp_path):
    ended = run("--models", str(tmp_path / "none"), "--port", "0", "--metrics-port", "0")
    assert ended.returncode == 1
    assert f"there is no folder of models {tmp_path / 'none'}" in ended.stderr
    assert "--models" in ended.stderr


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run("--models", str(tmp_path), "--port", "0", "--metrics-port", str(port))
    assert ended.returncode == 1
    assert f"port {port} on 127.0.0.1 for metrics is in use" in ended.stderr
    assert "--metrics-port" in ended.stderr


@pytest.mark.parametrize("flag", ["--operator-ca-file", "--tls"])
def test_certificates_that_cannot_be_read_are_named(tmp_path, flag):
    missing = str(tmp_path / "missing.pem")
    flags = [flag, missing] if flag != "--tls" else ["--tls-certificate-file", missing, "--tls-key-file", missing]
    state = ["--state-dir", str(tmp_path / "state")]
    ended = run("--models", str(tmp_path), "--port", "0", "--metrics-port", "0", *state, *flags)
    assert ended.returncode == 1
    assert missing in ended.stderr
    assert "can't be used" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_state_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "state").write_text("")
    arguments = ["--models", str(tmp_path), "--port", "0", "--metrics-port", "0"]
    ended = run(*arguments, "--state-dir", str(tmp_path / "state"))
    assert (ended.returncode, "is no folder: name one by --state-dir" in ended.stderr) == (1, True)


def test_a_database_that_no_driver_is_there_for_is_named_without_its_password(tmp_path):
    arguments = ["--models", str(tmp_path), "--port", "0", "--metrics-port", "0", "--state-dir", str(tmp_path / "s")]
    ended = run(*arguments, WINDLASS_PREDICTIONS="mysql://user:hunter2@host/db")
    assert ended.returncode == 1
    assert "use sqlite or postgresql" in ended.stderr
    assert "hunter2" not in ended.stderr


def test_two_replicas_never_share_a_state_folder(rig):
    first = rig.start(managed=False, server=None)
    from windlass_testing.one_machine import wait_until

    wait_until("it listens", lambda: "listening" in first.process.tail())
    ended = run(
        "--models",
        str(rig.models),
        "--port",
        "0",
        "--metrics-port",
        "0",
        "--state-dir",
        str(rig.folder / "state" / "r1"),
    )
    assert ended.returncode == 1
    assert str(rig.folder / "state" / "r1") in ended.stderr


def test_where_nothing_can_be_written_it_serves_and_says_so(rig):
    from windlass_testing.models import affine_tflite

    affine_tflite(rig.models, "m", 1, 1, 0)
    replica = rig.ready(rig.start("--state-dir", "/proc/windlass", managed=False, server=None, state=False))
    body = replica.get("/health").json()
    assert (body["status"], body["database"]) == ("degraded", "disabled")
    assert "name a writable one by --state-dir" in " ".join(body["reasons"])
    assert replica.predict("m", [[1.0]]).status_code == 200


def test_a_free_port_is_told(rig):
    port = free_port()
    replica = rig.start("--port", "0", "--metrics-port", str(port), managed=False, server=None)
    from windlass_testing.one_machine import wait_until

    wait_until("it says where", lambda: f'"metrics_url": "http://127.0.0.1:{port}"' in replica.process.tail())
    assert '"url": "http://127.0.0.1:0"' not in replica.process.tail()


def test_without_a_temporary_directory_the_launcher_says_what_to_mount(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    launcher = Launcher(tmp_path / "file" / "scratch")
    with pytest.raises(LauncherError, match=r"no temporary directory that can be written.*--tmpfs /tmp"):
        asyncio.run(launcher.start())


@pytest.mark.parametrize(
    ("files", "runtime"),
    [
        ([], None),
        (["m/1/model.tflite", "m/1/manifest.json"], "litert"),
        (["m/1/saved_model.pb", "m/1/variables/variables.index", "n/3/saved_model.pb"], "tensorflow"),
        (["m/1/model.tflite", "n/3/saved_model.pb"], None),
        (["m/1/model.tflite", "m/incoming/saved_model.pb", ".n/3/saved_model.pb"], "litert"),
        (["model.tflite", "m/saved_model.pb"], None),
        ([*(f"m{number:02}/1/model.tflite" for number in range(20)), "n/3/saved_model.pb"], "litert"),
    ],
)
def test_the_only_runtime_in_a_folder_of_models_is_likely_to_be_needed(tmp_path, files, runtime):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert likely_runtime(tmp_path) == runtime


def test_without_a_folder_of_models_no_runtime_is_likely_to_be_needed(tmp_path):
    assert likely_runtime(tmp_path / "missing") is None


LATE = ("aiohttp", "alembic", "fastapi", "sqlalchemy")
"""What a replica has no use for until it is ready, or ever: half a second of its start, and 30 MB."""


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("windlass_server.start", ("asyncio", "numpy", "pydantic", *LATE)),
        ("windlass_server.command_line", ("numpy", *LATE)),
        ("windlass_server.main", LATE),
        ("windlass_server.predictions.database", ("alembic",)),
        ("windlass_server.hosting.template", ("asyncio", "numpy", "pydantic", *LATE)),
        ("windlass_server.runtimes.litert_runtime", ("asyncio", "tensorflow", *LATE)),
    ],
)
def test_what_a_start_does_not_wait_for_is_not_imported(module, absent):
    program = f"import sys, {module}\nprint(*sorted(sys.modules.keys() & {set(absent)!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
