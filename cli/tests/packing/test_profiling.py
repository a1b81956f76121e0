"""`windlass profile`: what follows from figures, and the command on a real model."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from typer.testing import CliRunner

import windlass_testing.store
from windlass_cli.main import app
from windlass_cli.packing.profile import Cell, advice, plot


def cell(threads: int, batch: int, rate: float) -> Cell:
    return Cell(threads, batch, rate, p50=1000 * batch * threads / rate, p99=2000 * batch * threads / rate)


@pytest.mark.parametrize(
    ("rates", "best", "pays"),
    [
        ({(1, 1): 100, (2, 1): 190}, (2, 1), False),
        ({(1, 1): 100, (1, 8): 109}, (1, 8), False),  # a little more, and eight rows have to wait for each other
        ({(1, 1): 100, (1, 8): 150, (1, 16): 155}, (1, 8), True),  # the fewest rows that nearly give the best
        ({(1, 4): 100, (1, 8): 150}, (1, 8), True),
        ({(1, 1): 100, (2, 1): 190, (1, 8): 195, (2, 8): 380}, (2, 8), True),
    ],
)
def test_batches_are_advised_where_they_pay(rates: dict[tuple[int, int], float], best: tuple[int, int], pays: bool):
    found = advice([cell(*place, rate) for place, rate in rates.items()])
    assert (found.best.threads, found.best.batch) == best
    assert found.batching_pays is pays
    assert ("more rows in a request don't pay" in " ".join(found.sentences())) is not pays


def test_without_figures_there_is_no_advice():
    with pytest.raises(ValueError, match="no figures"):
        advice([])


def test_the_plot_has_a_line_for_each_number_of_threads():
    drawn = ET.fromstring(plot([cell(1, 1, 10), cell(1, 8, 20), cell(2, 1, 15)], "cats & dogs"))
    texts = ["".join(each.itertext()) for each in drawn if each.tag.endswith("text")]
    assert "cats & dogs: rows per second" in texts
    assert {"one at a time", "2 at a time"} <= set(texts)
    assert sum(each.tag.endswith("polyline") for each in drawn) == 2


def run(*arguments: object):
    return CliRunner().invoke(app, ["profile", *(str(each) for each in arguments)])


@pytest.fixture(scope="module")
def version() -> Path:
    return windlass_testing.store.built("affine_tflite", scale=0.5, offset=2.0, signatures=True)


def test_a_version_is_measured_by_batch_size_and_threads(version: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.array([[1.0], [2.0], [3.0]], dtype=np.float32))
    result = run(
        version, "--batch-sizes", "1,5", "--threads", "2,1", "--seconds", 0.1, "--inputs", tmp_path / "x.npy",
        "--plot", tmp_path / "plot.svg",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines() if re.match(r" *\d+ +[\d,]+ ", line)]
    assert [row[0] for row in rows] == ["1", "5"]
    assert all(len(row) == 9 for row in rows), rows  # rate, p50 / p99 with one thread, and with two
    assert "memory with 2 at a time:" in result.output
    assert "requests of one row:" in result.output
    ET.parse(tmp_path / "plot.svg")


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (["--threads", "0"], 2, "1 to 256"),
        (["--batch-sizes", "many"], 2, "1 to 4096"),
        (["--signature", "other", "--seconds", "0.05"], 1, "no signature 'other', but serving_default"),
        (["--plot", "missing/plot.svg"], 1, "make it first"),
    ],
)
def test_what_can_not_be_measured_is_said(version: Path, given: list[str], code: int, says: str):
    result = run(version, *given)
    assert result.exit_code == code
    assert says in " ".join(result.output.replace("│", " ").split())


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "is it the folder of one version?" in result.output
