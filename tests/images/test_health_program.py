"""`windlass-health`, as HEALTHCHECK runs it, against real sockets."""

from __future__ import annotations

import importlib.util
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from windlass_contract.control import OPERATOR_METRICS_PORT, SERVER_PORT
from windlass_contract.health import HEALTH
from windlass_operator.settings import Settings as OperatorSettings
from windlass_server.settings import Settings as ServerSettings

PROGRAM = Path(__file__).resolve().parents[2] / "docker" / "health.py"
_spec = importlib.util.spec_from_file_location("windlass_health", PROGRAM)
assert _spec is not None
assert _spec.loader is not None
health = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(health)


def _check(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-IS", str(PROGRAM), "windlass-server"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=HEALTH.timeout * 4,
    )


@contextmanager
def _answering(status: int, tls: tuple[Path, Path] | None = None) -> Iterator[tuple[int, list[str]]]:
    """An HTTP server on loopback; gives its port and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"status": "as I say"}')

        def log_message(self, *_: object) -> None:
            """Silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "tls.crt", folder / "tls.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=somebody else", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_200_is_healthy_and_all_else_is_not_and_the_answer_is_kept_for_people(status: int, code: int) -> None:
    with _answering(status) as (port, asked):
        done = _check(WINDLASS_PORT=str(port))
    assert (done.returncode, asked) == (code, ["/health"])
    assert done.stdout == f'{status} {{"status": "as I say"}}\n'


def test_a_server_with_tls_is_asked_by_tls(tmp_path: Path) -> None:
    files = _certificate(tmp_path)
    with _answering(200, files) as (port, _):
        done = _check(WINDLASS_PORT=str(port), WINDLASS_TLS_CERTIFICATE_FILE=str(files[0]))
    assert done.returncode == 0, done.stdout


def test_nobody_there_is_unhealthy_with_the_reason() -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else takes the port meanwhile
        bound.bind(("127.0.0.1", 0))
        done = _check(WINDLASS_PORT=str(bound.getsockname()[1]))
    assert done.returncode == 1
    assert "windlass-server doesn't answer" in done.stdout
    assert "refused" in done.stdout


def test_one_that_hangs_is_unhealthy_with_the_reason_before_the_engine_loses_patience() -> None:
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        done = _check(WINDLASS_PORT=str(hanging.getsockname()[1]))
    assert done.returncode == 1
    assert "timed out" in done.stdout
    assert HEALTH.timeout > health.TIMEOUT


def test_an_unknown_program_is_a_mistake_of_the_caller() -> None:
    done = subprocess.run([sys.executable, "-IS", str(PROGRAM), "cat"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "windlass-server|windlass-operator" in done.stderr


SERVER = ["/usr/bin/tini", "-s", "--", "windlass-server"]
OPERATOR = ["/usr/bin/tini", "-s", "--", "windlass-operator", "directory", "/versions"]


@pytest.mark.parametrize(
    ("program", "environment", "command_line", "expected"),
    [
        ("windlass-server", {}, [], ("/health", "127.0.0.1", SERVER_PORT, False)),
        ("windlass-server", {"WINDLASS_HOST": "0.0.0.0"}, SERVER, ("/health", "127.0.0.1", SERVER_PORT, False)),
        ("windlass-server", {"WINDLASS_HOST": "::"}, SERVER, ("/health", "::1", SERVER_PORT, False)),
        ("windlass-server", {"WINDLASS_PORT": "9"}, SERVER, ("/health", "127.0.0.1", 9, False)),
        ("windlass-server", {"WINDLASS_PORT": ""}, SERVER, ("/health", "127.0.0.1", SERVER_PORT, False)),
        ("windlass-server", {"WINDLASS_PORT": "9"}, [*SERVER, "--port", "7"], ("/health", "127.0.0.1", 7, False)),
        ("windlass-server", {}, [*SERVER, "--port=7", "--host=10.0.0.1"], ("/health", "10.0.0.1", 7, False)),
        ("windlass-server", {}, [*SERVER, "--tls-certificate-file", "/c"], ("/health", "127.0.0.1", SERVER_PORT, True)),
        ("windlass-server", {}, ["/opt/windlass/bin/windlass-server", "--port=7"], ("/health", "127.0.0.1", 7, False)),
        ("windlass-server", {}, ["sh", "--port", "7"], ("/health", "127.0.0.1", SERVER_PORT, False)),
        ("windlass-operator", {}, OPERATOR, ("/livez", "127.0.0.1", OPERATOR_METRICS_PORT, False)),
        (
            "windlass-operator",
            {"WINDLASS_OPERATOR_METRICS_HOST": "0.0.0.0", "WINDLASS_OPERATOR_PORT": "1"},
            [*OPERATOR, "--metrics-port", "7"],
            ("/livez", "127.0.0.1", 7, False),
        ),
    ],
)
def test_it_looks_where_the_settings_say(
    program: str, environment: dict[str, str], command_line: list[str], expected: tuple[str, str, int, bool]
) -> None:
    assert health.where(program, environment, command_line) == expected


def test_the_settings_that_it_reads_are_settings_of_the_programs() -> None:
    for program, known in (("windlass-server", ServerSettings), ("windlass-operator", OperatorSettings)):
        _, prefix, *names, port = health.PROGRAMS[program]
        assert known.model_config["env_prefix"] == prefix
        assert {name for name in names if name} <= set(known.model_fields)
        assert known.model_fields[names[1]].default == port


def test_it_imports_little() -> None:
    """Each module costs time, each few seconds, beside the models."""
    code = f"import sys; sys.argv = ['x', 'windlass-server']; exec(open({str(PROGRAM)!r}).read())"
    told = subprocess.run(
        [sys.executable, "-IS", "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        timeout=20,
        env={"WINDLASS_PORT": "1", "PATH": os.defpath},
    )
    modules = {line.rsplit("|", 1)[-1].strip() for line in told.stderr.splitlines() if line.startswith("import time:")}
    assert "socket" in modules
    assert not modules & {"http.client", "urllib.request", "ssl", "json", "email", "re", "pathlib", "typing", "site"}
