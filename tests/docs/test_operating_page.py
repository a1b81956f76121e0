"""docs/operating.md: what it tells people to type and to watch is there."""

from __future__ import annotations

import re
import subprocess
import sys

import yaml

from windlass_contract.decision import Action
from windlass_testing.pages import ROOT, commands

PAGE = ROOT / "docs" / "operating.md"
TEXT = PAGE.read_text()


def test_every_metric_in_an_alert_is_one_of_ours() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    rules = yaml.safe_load(block)["groups"][0]["rules"]
    sources = "".join(
        path.read_text()
        for part in ("app/src/windlass_server/metrics.py", "operator/src/windlass_operator/metrics.py")
        for path in [ROOT / part]
    )
    for rule in rules:
        for metric in re.findall(r"windlass_[a-z_]+", rule["expr"]):
            assert f'"{metric.removesuffix("_total")}"' in sources, metric


def test_the_decisions_that_the_page_shows_are_commands_with_these_options() -> None:
    for action in Action:
        assert f"`{action}`" in TEXT
    shown = [command.split() for command in commands(PAGE) if command.startswith("windlass ")]
    assert {words[1] for words in shown} == {"get", "undo", "clear"}
    for words in shown:
        done = subprocess.run(
            [sys.executable, "-m", "windlass_cli.main", words[1], "--help"], capture_output=True, text=True, timeout=60
        )
        for option in (word for word in words if word.startswith("--")):
            assert option in done.stdout, f"windlass {words[1]} has no {option}"
