"""docs/evidence.md is what was measured, and nothing else."""

from __future__ import annotations

import json

from windlass_testing.evidence import FIGURES, PAGE, page


def test_the_page_holds_the_figures_that_were_measured() -> None:
    written = page(json.loads(FIGURES.read_text())).splitlines()
    kept = PAGE.read_text().splitlines()
    machine = next(number for number, line in enumerate(kept) if line.startswith("The machine has "))
    assert [*written[:machine], *written[machine + 1 :]] == [*kept[:machine], *kept[machine + 1 :]]
