"""The command as a process: two at once, takeover, damage to its files while it runs, signals and start-up."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "windlass_operator.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_a_second_driver_stands_by_and_takes_over_when_the_first_is_killed(
    stage: Any, workspace: Any, until: Any
) -> None:
    workspace.write("m-1", 1)
    first = stage.operator()
    first.await_said("lock.acquired")
    replica = stage.replica()
    workspace.await_committed(1)
    second = stage.operator()
    second.await_said("lock.waiting")
    until(lambda: second.health("/readyz") == (503, "not ready\n"))
    assert second.health("/livez")[0] == 200
    assert "windlass_operator_acting 0.0" in second.health("/metrics")[1]
    workspace.write("m-2", 2)
    workspace.await_committed(2)
    assert not second.said("plan.written")
    killed_at = time.monotonic()
    first.stop(signal.SIGKILL)
    second.await_said("lock.acquired")
    assert time.monotonic() - killed_at < 10, "at once, on a busy machine too"
    workspace.write("m-3", 3)
    workspace.await_committed(3)
    assert second.said("plan.written")
    until(lambda: replica.committed == [None, 1, 2, 3])
    assert replica.epochs == sorted(set(replica.epochs))


def test_a_second_driver_on_the_same_ports_opens_them_at_takeover(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    first = stage.operator()
    url = first.await_said("operator.listening", endpoint="control endpoint")["url"]
    port = url.rsplit(":", 1)[1]
    second = stage.operator("--port", port)
    second.await_said("operator.port_in_use", endpoint="control endpoint")
    assert first.stop() == 0
    assert second.await_said("operator.listening", endpoint="control endpoint")["url"] == url
    stage.replica()
    workspace.await_committed(1)


def test_a_driver_whose_lock_was_replaced_leaves_the_state_to_the_other(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    first = stage.operator()
    stage.replica()
    workspace.await_committed(1)
    (workspace.state / "lock").unlink()
    second = stage.operator()
    until(lambda: first.said("lock.lost") or second.said("lock.waiting"))
    until(lambda: sum(each.health("/readyz")[0] == 200 for each in (first, second)) == 1)
    workspace.write("m-2", 2)
    workspace.await_committed(2)
    assert workspace.durable()["record"]["models"]["m"]["verdicts"][-1]["outcome"] == "Committed"


@pytest.mark.parametrize("harm", ["deleted", "damaged", "an old copy"])
def test_a_durable_object_that_was_harmed_is_rebuilt_from_what_replicas_hold(
    stage: Any, workspace: Any, until: Any, harm: str
) -> None:
    workspace.write("m-1", 1)
    operator = stage.operator()
    replica = stage.replica()
    workspace.await_committed(1)
    path = workspace.state / "servers" / "cats.json"
    old = path.read_bytes()
    workspace.write("m-2", 2)
    workspace.await_committed(2)
    until(lambda: replica.committed[-1] == 2)
    epoch = replica.epochs[-1]
    if harm == "deleted":
        path.unlink()
    else:
        # In one go: half of an old copy is damage.
        fresh = path.with_suffix(".fresh")
        fresh.write_bytes(b"{" if harm == "damaged" else old)
        fresh.replace(path)
    operator.await_said("store.changed")
    if harm == "damaged":
        operator.await_said("store.damaged")  # until it was put aside it can't be read here either
    until(lambda: workspace.committed() == 2 and workspace.durable()["plan"]["epoch"] >= epoch, workspace.durable)
    workspace.write("m-3", 3)
    workspace.await_committed(3)
    until(lambda: replica.committed[-1] == 3)
    assert replica.committed == [None, 1, 2, 3], "it never went back"
    assert (workspace.state / "servers" / "cats.json.damaged").exists() == (harm == "damaged")


def test_a_state_that_can_not_be_read_stops_answers_and_heals(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    operator = stage.operator()
    stage.replica()
    workspace.await_committed(1)
    path = workspace.state / "servers" / "cats.json"
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    assert "cats.json" in operator.await_said("store.failed")["error"]
    path.rmdir()
    path.write_bytes(content)
    workspace.write("m-2", 2)
    workspace.await_committed(2)


def test_the_directory_may_vanish_and_come_back(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    operator = stage.operator()
    stage.replica()
    workspace.await_committed(1)
    away = workspace.folder.with_name("away")
    workspace.folder.rename(away)
    operator.await_said("file.refused", reason="DirectoryUnreadable")
    until(lambda: 'windlass_operator_server_frozen{server="cats"} 1.0' in operator.health("/metrics")[1])
    assert workspace.committed() == 1
    away.rename(workspace.folder)
    workspace.write("m-2", 2)
    workspace.await_committed(2)


def test_a_control_token_is_rotated_while_it_runs(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    stage.operator()
    replica = stage.replica()
    workspace.await_committed(1)
    token = workspace.state / "tokens" / "cats"
    assert token.stat().st_mode & 0o777 == 0o600
    fresh = token.with_name(".fresh")
    fresh.write_text("another-secret")
    fresh.replace(token)
    workspace.write("m-2", 2)
    until(lambda: replica.committed[-1] == 2)
    assert token.read_text() == "another-secret"


def test_nothing_new_writes_nothing(stage: Any, workspace: Any, until: Any) -> None:
    workspace.write("m-1", 1)
    operator = stage.operator()
    stage.replica()
    workspace.await_committed(1)
    workspace.await_phase("m-1", "Serving")
    until(lambda: workspace.status("m-1")["replicas"]["committed"] == 1)

    def passes() -> int:
        text = operator.health("/metrics")[1]
        lines = [line for line in text.splitlines() if "reconciles_total" in line and 'result="unchanged"' in line]
        return int(float(lines[0].split()[-1])) if lines else 0

    def files() -> dict[str, int]:
        return {str(path): path.stat().st_ino for path in workspace.state.rglob("*") if path.is_file()}

    def shown() -> bool:
        """What replicas report is shown a second later at most."""
        path = workspace.state / "replicas" / "cats.json"
        return path.exists() and '"state": "Prepared"' in path.read_text()

    until(shown)

    before, count = files(), passes()
    until(lambda: passes() > count)  # a server that rests is looked at each 30 s
    assert files() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_gracefully(stage: Any, workspace: Any, number: int) -> None:
    workspace.write("m-1", 1)
    operator = stage.operator()
    stage.replica()
    workspace.await_committed(1)
    assert operator.stop(number) == 0
    assert operator.said("operator.stopped")
    assert not [line for line in operator.text if "Traceback" in line]


def test_one_that_stands_by_ends_gracefully(stage: Any, workspace: Any) -> None:
    stage.operator().await_said("lock.acquired")
    second = stage.operator()
    second.await_said("lock.waiting")
    assert second.stop() == 0


def test_every_line_of_the_log_is_json_with_time_level_and_event(stage: Any, workspace: Any) -> None:
    workspace.write("m-1", 1)
    operator = stage.operator()
    stage.replica()
    workspace.await_committed(1)
    assert operator.stop() == 0
    lines = [json.loads(line) for line in operator.text]
    assert all({"timestamp", "level", "event"} <= line.keys() for line in lines)
    written = [line for line in lines if line["event"] == "plan.written"]
    assert written[-1]["server"] == "cats"
    assert written[-1]["models"] == {"m": {"committed": 1}}


def test_the_directory_is_never_written(stage: Any, workspace: Any) -> None:
    workspace.write("m-1", 1)
    before = {path.name: path.stat().st_mtime_ns for path in workspace.folder.iterdir()}
    changed = workspace.folder.stat().st_mtime_ns
    stage.operator()
    stage.replica()
    workspace.await_committed(1)
    assert {path.name: path.stat().st_mtime_ns for path in workspace.folder.iterdir()} == before
    assert workspace.folder.stat().st_mtime_ns == changed


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        (["kubernetes"], {"KUBECONFIG": "/nowhere", "HOME": "/nowhere"}, 1, "the kubeconfig can't be used"),
        (["kubernetes", "--namespace", "No_Name"], {}, 2, "--namespace"),
        ([], {}, 2, "usage"),
        (["directory"], {}, 2, "DIR"),
        (["directory", "/nowhere/at/all"], {}, 1, "there is no folder /nowhere/at/all"),
        (["directory", ".", "--port", "http"], {}, 2, "--port"),
        (["directory", ".", "--server", "Not_A_Name"], {}, 2, "--server"),
        (["directory", "."], {"WINDLASS_OPERATOR_PORT": "70000"}, 2, "WINDLASS_OPERATOR_PORT"),
        (["directory", ".", "--control-tls-cert", "cert.pem"], {}, 2, "--control-tls-key"),
        (["directory", ".", "--state", "/proc/nothing"], {}, 1, "the state folder /proc/nothing can't be made"),
    ],
)
def test_what_is_wrong_at_the_start_is_said_in_one_line(
    arguments: list[str], environment: dict[str, str], code: int, said: str
) -> None:
    result = run(*arguments, **environment)
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_and_a_bad_certificate_end_the_start(stage: Any, workspace: Any, tmp_path: Path) -> None:
    first = stage.operator()
    port = first.await_said("operator.listening", endpoint="control endpoint")["url"].rsplit(":", 1)[1]
    other = tmp_path / "other"
    result = run("directory", str(workspace.folder), "--state", str(other), "--port", port, "--metrics-port", "0")
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in result.stderr.splitlines()[-1]
    (tmp_path / "cert.pem").write_text("nonsense")
    pem = str(tmp_path / "cert.pem")
    result = run(
        "directory",
        str(workspace.folder),
        "--state",
        str(other),
        "--control-tls-cert",
        pem,
        "--control-tls-key",
        pem,
        "--port",
        "0",
        "--metrics-port",
        "0",
    )
    assert result.returncode == 1
    assert "cert.pem" in result.stderr.splitlines()[-1]


def test_the_control_endpoint_speaks_tls_when_it_is_given_a_certificate(
    stage: Any, workspace: Any, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *[
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
            ],
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
    )
    operator = stage.operator("--control-tls-cert", str(certificate), "--control-tls-key", str(key), "--server", "cats")
    url = operator.await_said("operator.listening", endpoint="control endpoint")["url"]
    assert url.startswith("https://127.0.0.1:")
    operator.await_said("token.made", server="cats")
    request = urllib.request.Request(
        f"{url}/control/v1/servers/cats/plan", headers={"Authorization": "Bearer nonsense"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, context=ssl.create_default_context(cafile=str(certificate)), timeout=10)
    with refused.value as answer:
        assert answer.code == 401
    with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
        urllib.request.urlopen(request, context=ssl.create_default_context(), timeout=10)


def test_help_lists_each_setting_with_variable_and_default() -> None:
    from windlass_operator.settings import DirectorySettings

    text = " ".join(run("directory", "--help", COLUMNS="110").stdout.split())
    for name in DirectorySettings.model_fields.keys() - {"directory"}:
        assert f"--{name.replace('_', '-')}" in text
        assert f"WINDLASS_OPERATOR_{name.upper()}" in text
    assert "default 8010" in text
    assert "default 8011" in text


def test_settings_come_from_flags_then_variables_then_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    from windlass_operator.command_line import parse

    monkeypatch.setenv("WINDLASS_OPERATOR_PORT", "1234")
    monkeypatch.setenv("WINDLASS_OPERATOR_SERVER", "cats, dogs")
    settings = parse(["directory", "somewhere"])
    assert (settings.port, settings.metrics_port, settings.server) == (1234, 8011, ("cats", "dogs"))
    assert settings.state_folder == Path("somewhere/.windlass")
    settings = parse(["directory", "somewhere", "--port", "5", "--server", "a", "--server", "b", "--state", "x"])
    assert (settings.port, settings.server, settings.state_folder) == (5, ("a", "b"), Path("x"))
