"""Parsers under any bytes: what was found stays a case; the search itself runs with `make soak`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fuzz_targets
import pytest

SECONDS = int(os.environ.get("WINDLASS_FUZZ_SECONDS", "60"))
"""For each target."""
RUNNER = Path(__file__).with_name("fuzz_run.py")
FOUND = Path(__file__).parent / "found"
"""Inputs that once did harm, by target."""


@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_where_the_search_starts_and_all_that_was_found_does_no_harm(target):
    for data in [b"", *fuzz_targets.SEEDS[target], *(path.read_bytes() for path in sorted(FOUND.glob(f"{target}-*")))]:
        fuzz_targets.TARGETS[target](data)


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_no_input_does_harm(target, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(fuzz_targets.SEEDS[target]):
        (corpus / f"seed-{number}").write_bytes(seed)
    done = subprocess.run(
        [sys.executable, str(RUNNER), target, str(corpus), f"-max_total_time={SECONDS}", "-max_len=4096",
         "-rss_limit_mb=2048", "-timeout=20", f"-artifact_prefix={tmp_path}/"],
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    runs = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
    print(target, *runs)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert done.returncode == 0, f"keep it as found/{target}-…: {kept}\n{done.stderr[-3000:]}"
