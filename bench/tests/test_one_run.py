"""A whole run, short: a replica as shipped under load, its answers checked before and after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from windlass_bench import page, running
from windlass_bench.models import DONE
from windlass_bench.results import Results
from windlass_bench.servers import variants
from windlass_testing.models import affine_tflite

SHORT = running.Amounts(
    passes=1,
    warm_up=0.2,
    window=1,
    connections={"W1": (2,), "W1b": (2,)},
    rates={"W1": (50,)},
    limit_window=1,
    limit_ways=1,
)


def small_models(folder: Path, offset: float) -> Path:
    """`tiny` alone, y = 2 x + 1, and answers as if it were y = 2 x + `offset`."""
    affine_tflite(folder / "litert", "tiny", 1, 2, 1)
    x = np.array([[3.0], [4.0]], dtype=np.float32)
    for workload in ("W1", "W1b"):
        np.save(folder / f"{workload}.npy", x)
    np.savez(folder / "answers.npz", tiny=2 * x + np.float32(offset))
    (folder / DONE).write_text("{}")
    return folder


def shipped():
    variant = next(each for each in variants() if each.key == "windlass/shipped")
    variant.routes.pop("W2")
    variant.routes.pop("W3")
    return variant


def test_a_replica_is_measured_and_its_answers_are_checked(tmp_path):
    document = running.run([shipped()], SHORT, backends=("litert",), models=small_models(tmp_path, 1), work=tmp_path)
    assert document["failures"] == []
    loads = [(each["workload"], each["loop"], each["level"]) for each in document["cells"]]
    assert loads == [("W1", "closed", 2.0), ("W1", "open", 50.0), ("W1b", "closed", 2.0)]
    for each in document["cells"]:
        assert each["errors"] == 0
        assert each["requests"] >= 10
        assert 0 < each["p50"] <= each["p99"]
        assert each["cpu_seconds"] > 0
    (start,) = document["starts"]
    assert start["memory_after_mb"] > 20
    assert "| Windlass | same |" in page.text(Results(document))


def test_a_server_that_answers_wrongly_is_left_out(tmp_path):
    document = running.run([shipped()], SHORT, backends=("litert",), models=small_models(tmp_path, 7), work=tmp_path)
    assert document["cells"] == []
    assert "the answer differs by 6" in document["failures"][0]["why"]


def test_a_server_that_does_not_come_up_is_started_once_more_and_left_out(tmp_path):
    program = f"open({str(tmp_path / 'starts')!r}, 'a').write('x'); raise SystemExit('no luck today')"
    broken = replace(shipped(), command=("{python}", "-c", program))
    document = running.run([broken], SHORT, backends=("litert",), models=small_models(tmp_path, 1), work=tmp_path)
    assert (tmp_path / "starts").read_text() == "xx"
    (failure,) = document["failures"]
    assert "no luck today" in failure["why"]
