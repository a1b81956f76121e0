"""Each chart's suites of helm-unittest; the lab runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from windlass_testing.pages import ROOT

CHARTS = sorted(path.parent for path in (ROOT / "charts").glob("*/Chart.yaml"))


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_every_template_has_a_suite(chart: Path) -> None:
    """Partials, whose names begin with `_`, show in those that take them in."""
    folder = chart / "templates"
    templates = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("_")
    }
    suites = [yaml.safe_load(path.read_text()) for path in (chart / "tests").glob("*_test.yaml")]
    assert {name.removeprefix("templates/") for suite in suites for name in suite["templates"]} == templates
