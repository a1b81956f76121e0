"""docs/operating.md: what it tells people to type and to watch is there."""

from __future__ import annotations

import json
import re

import yaml

from windlass_contract.decision import Action, DecisionSpec
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


def test_the_decision_that_the_page_shows_is_one() -> None:
    (command,) = (command for command in commands(PAGE) if command.startswith("kubectl annotate"))
    (text,) = re.findall(r"decisions\.windlass\.dev/back-to-1='(.*)'$", command)
    decision = DecisionSpec.model_validate(json.loads(text.replace("'$DIGEST'", "sha256:" + "0" * 64)))
    assert decision.id == "back-to-1"
    for action in Action:
        assert f"`{action}`" in TEXT
