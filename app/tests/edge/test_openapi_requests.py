"""Requests made from /openapi.json, right and wrong ones, against a real server: no 5xx but those that say why."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest

from windlass_contract.manifest import ImageInput
from windlass_testing.models import affine_tflite, identity, scorer
from windlass_testing.one_machine import BIN, OneMachine, wait_until

pytestmark = pytest.mark.hardening

SECONDS = int(os.environ.get("WINDLASS_FUZZ_SECONDS", "300"))
ALLOWED = ["2xx", "3xx", "4xx", "501", "503", "504"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Three models: numbers, all element types, pictures."""
    machine = OneMachine(tmp_path_factory.mktemp("described"))
    affine_tflite(machine.models, "m", 1, 2, 0)
    identity(machine.models)
    how = ImageInput(input="x", width=2, height=2, channels=1)
    scorer(machine.models, "picture", 1, [[1.0, 0.0]] * 4, image=how, classes=["a", "b"])
    replica = machine.add_replica("described", managed=False)
    try:
        wait_until("the server is ready", replica.ready, timeout=170, last_seen=replica.process.tail)
        yield replica
    finally:
        machine.stop()


def ask(server, folder: Path, seconds: int, examples: int) -> str:
    """Sends what schemathesis thinks of for so long; its report."""
    config = folder / "schemathesis.toml"
    config.write_text(f"[checks]\nnot_a_server_error.expected-statuses = {ALLOWED}\n")
    done = subprocess.run(
        [str(BIN / "schemathesis"), "--config-file", str(config), "run", f"{server.url}/openapi.json",
         "--checks", "not_a_server_error", "--phases", "coverage,fuzzing", "--max-time", str(seconds),
         "--generation-database", "none", "--max-examples", str(examples), "--warnings", "off", "--no-color"],
        cwd=folder, capture_output=True, text=True, timeout=seconds + 300,
    )  # fmt: skip
    report = done.stdout + done.stderr
    assert done.returncode == 0, report[-6000:]
    return report


def check(server, folder: Path, seconds: int, examples: int, at_least: int) -> None:
    before = workers(server)
    report = ask(server, folder, seconds, examples)
    sent = re.search(r"([\d,]+) generated", report)
    assert sent is not None
    print(f"{sent[1]} requests")
    assert int(sent[1].replace(",", "")) >= at_least, report[-3000:]
    assert server.process.running
    assert server.ready()
    assert workers(server) == before
    log = server.process.log.read_text()
    assert "request failed" not in log
    assert "Traceback" not in log
    assert "ended by SIG" not in log


def workers(server) -> set[str]:
    """How often each version's worker was started anew."""
    text = httpx.get(server.metrics_url + "/metrics").text
    return set(re.findall(r"^windlass_worker_restarts_total.*$", text, re.MULTILINE))


def test_no_described_request_makes_an_unsaid_error(server, tmp_path):
    check(server, tmp_path, 60, 3, 100)


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 600)
def test_no_described_request_makes_an_unsaid_error_for_long(server, tmp_path):
    check(server, tmp_path, SECONDS, 100_000, 1000)
