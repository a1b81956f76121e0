"""The commands of docs/prediction-log.md, in one shell as a reader has it, on a real PostgreSQL."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from windlass_testing.models import scorer
from windlass_testing.one_machine import BIN, Process, Replica, free_port, wait_until
from windlass_testing.pages import ROOT, commands, run_in_one_shell
from windlass_testing.postgres import running_postgres

PAGE = ROOT / "docs" / "prediction-log.md"
WEIGHTS = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]


@pytest.mark.timeout(500)
@pytest.mark.default_ports
def test_every_command_of_the_page_works_as_written(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    scorer(tmp_path / "models", "iris", 1, WEIGHTS, classes=["setosa", "versicolor", "virginica"])
    with running_postgres() as server:
        # Where the administrator of this server is let in; the page's URL names its address itself.
        where = {"PGHOST": str(server.folder), "PGPORT": str(server.port), "PAGER": "cat"}
        said = run_in_one_shell(commands(PAGE), tmp_path, 400, where, "-eux -o pipefail")
    assert re.search(r"'iris', 1, 'setosa', 'order-17'", said), said
    assert re.search(r"\| iris +\| +1 \| virginica \|", said), said
    assert "is up to date" in said


def test_the_page_lists_the_metrics_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    port, metrics_port = free_port(), free_port()
    flags = ["--port", str(port), "--metrics-port", str(metrics_port), "--state-dir", str(tmp_path / "state")]
    process = Process(
        "r", [str(BIN / "windlass-server"), "--models", str(tmp_path / "models"), *flags], tmp_path / "log"
    )
    replica = Replica("r", process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}")
    process.start()

    def text() -> str:
        try:
            return httpx.get(f"{replica.metrics_url}/metrics").text
        except httpx.HTTPError:
            return ""

    try:
        exposed = wait_until("it answers", text, last_seen=process.tail)
    finally:
        process.stop()
    there = set(re.findall(r"^windlass_predictions_\w+", exposed, re.MULTILINE))
    listed = set(re.findall(r"^\| `(windlass_predictions_\w+)", PAGE.read_text(), re.MULTILINE))
    assert {name for name in there if not name.endswith("_created")} == listed
    reasons = set(re.findall(r'windlass_predictions_lost_total\{reason="(\w+)"\}', exposed))
    assert reasons == set(re.findall(r"^\| .* \| `(\w+)` \|$", PAGE.read_text(), re.MULTILINE))
