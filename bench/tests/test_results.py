"""Medians, ratios, the guard's comparison and the page, from documents written here."""

from __future__ import annotations

from typing import Any

import pytest

from windlass_bench import page
from windlass_bench.results import Results, best_peers, figure, ratios, worse


def cell(server: str, requests: int, **fields: Any) -> dict[str, Any]:
    return {
        "server": server, "backend": "litert", "pass": 1, "workload": "W2", "loop": "closed", "level": 8.0,
        "requests": requests, "errors": 0, "seconds": 2.0, "p50": 10.0, "p90": 12.0, "p99": 15.0,
        "generator_cpu_seconds": 0.1, "cpu_seconds": 4.0, "difference": 0.0, **fields,
    }  # fmt: skip


def server(kind: str, table: str = "same") -> dict[str, Any]:
    return {"title": f"the {kind}", "kind": kind, "table": table, "checked": True, "versions": {"package": "1.0"}}


def results(*cells: dict[str, Any], limit: float | None = 1000.0, **fields: Any) -> Results:
    limits = [
        {"backend": "litert", "workload": "W2", "pass": 1, "processes": 1, "threads": 2, "batch": 1, "requests": limit}
    ]
    return Results(
        {
            "date": "2026-01-01T00:00+00:00", "machine": "one", "cores": 2, "load before": 0.1, "generator": "wrk",
            "seconds": {"warm_up": 1, "window": 2}, "failures": [], "starts": [],
            "servers": {
                "windlass/shipped": server("windlass"), "slow/same": server("peer"), "fast/same": server("peer"),
                "plain/documented": server("peer", "documented"), "floor/one": server("limit", "limit"),
            },
            "cells": list(cells), "limits": limits if limit else [], **fields,
        }
    )  # fmt: skip


def test_a_figure_is_the_median_of_the_passes():
    found = figure([cell("a", 100, p99=1.0), cell("a", 200, p99=9.0), cell("a", 120, p99=3.0, errors=2)])
    assert found is not None
    assert (found.rate, found.p99, found.errors, found.passes) == (60.0, 3.0, 2, 3)
    assert found.spread == pytest.approx((100 - 50) / 60)
    assert found.cpu_per_1000 == pytest.approx(1000 * 4.0 / 120)


def test_nothing_measured_is_no_figure():
    assert figure([]) is None


def test_ratios_are_taken_over_peers_floors_and_the_limit():
    found = ratios(
        results(
            cell("windlass/shipped", 1800), cell("slow/same", 600), cell("fast/same", 1200),
            cell("floor/one", 3600, backend="none"),
        )
    )  # fmt: skip
    assert found == {
        ("in process", "litert", "W2 at 8"): 0.9,
        ("slow/same", "litert", "W2 at 8"): 3.0,
        ("fast/same", "litert", "W2 at 8"): 1.5,
        ("floor/one", "litert", "W2 at 8"): 0.5,
    }


def test_the_limit_is_the_best_way_of_using_the_machine():
    ways = [
        {"backend": "litert", "workload": "W2", "pass": 1, "processes": 1, "threads": 2, "batch": 1, "requests": 700.0},
        {"backend": "litert", "workload": "W2", "pass": 2, "processes": 1, "threads": 2, "batch": 1, "requests": 720.0},
        {"backend": "litert", "workload": "W2", "pass": 1, "processes": 2, "threads": 1, "batch": 8, "requests": 650.0},
    ]
    assert results(limits=ways).limit("litert", "W2") == 710.0
    assert results(limits=ways).limit("tensorflow", "W2") is None


def test_the_best_peer_answers_without_an_error():
    found = results(cell("slow/same", 600), cell("fast/same", 1200, errors=1)).best_peer("litert", "W2", 8.0)
    assert found is not None
    assert found[0] == "slow/same"


def test_the_best_peers_are_those_over_all_workloads():
    found = results(
        cell("windlass/shipped", 1000), cell("slow/same", 900), cell("fast/same", 1900), cell("plain/documented", 100),
        cell("windlass/shipped", 1000, workload="W1"), cell("slow/same", 900, workload="W1"),
        cell("fast/same", 500, workload="W1"),
    )  # fmt: skip
    assert best_peers(found) == ["fast/same", "slow/same"]


@pytest.mark.parametrize(
    ("ours", "peer", "names"),
    [
        (1800, 1000, []),  # as before
        (900, 500, ["in process"]),  # half as fast, and so is the peer: only the limit shows it
        (1600, 1000, []),  # within noise
        (1400, 1000, ["fast/same", "in process"]),
        (3000, 1000, []),  # better
    ],
)
def test_the_guard_finds_ratios_that_fell_beyond_noise(ours: int, peer: int, names: list[str]):
    before = results(cell("windlass/shipped", 1800), cell("fast/same", 1000))
    found = worse(before, results(cell("windlass/shipped", ours), cell("fast/same", peer)))
    assert sorted(each.place.rpartition(" over ")[2] for each in found) == names


def test_noise_is_what_the_passes_differ_by():
    before = results(cell("windlass/shipped", 1800), cell("fast/same", 1000), cell("fast/same", 600), limit=None)
    assert worse(before, results(cell("windlass/shipped", 1400), cell("fast/same", 800), limit=None)) == []


@pytest.mark.parametrize("other", [{"generator": "another"}, {"cores": 4}])
def test_runs_of_other_machines_and_generators_are_not_compared(other: dict[str, Any]):
    with pytest.raises(ValueError, match="can't be compared"):
        worse(results(cell("windlass/shipped", 1800)), results(cell("windlass/shipped", 1800), **other))


def test_runs_without_a_common_ratio_are_not_compared():
    with pytest.raises(ValueError, match="no ratio in common"):
        worse(results(cell("windlass/shipped", 1800)), results(cell("windlass/shipped", 1800), limit=None))


def test_the_page_has_ratios_figures_versions_and_what_was_left_out():
    failure = {"server": "slow/same", "backend": "litert", "pass": 1, "why": "it doesn't come up\nand more"}
    start = {"server": "windlass/shipped", "backend": "litert", "pass": 1, "seconds": 1.25, "memory_mb": 130.0}
    found = results(
        cell("windlass/shipped", 1800), cell("fast/same", 1200),
        cell("windlass/shipped", 98, loop="open", level=50.0, errors=2), failures=[failure], starts=[start],
    )  # fmt: skip
    text = page.text(found)
    assert "| W2, 8 connections | LiteRT | 90% | 1.50 times the peer |  |" in text
    assert "| the windlass | same | 900 | 10.00 / 15.00 | 2.22 | 0 | 0% |" in text
    assert "| the windlass | 49 | 10.00 / 15.00 | 2 |" in text
    assert "| the windlass | LiteRT | 1.2 | 130 |  |" in text
    assert "- the peer: package 1.0" in text
    assert "- Left out: slow/same, litert, pass 1: it doesn't come up\n" in text


def test_the_plot_names_every_server_that_was_measured():
    drawn = page.plots(results(cell("windlass/shipped", 1800), cell("fast/same", 1200)))
    assert list(drawn) == ["W2"]
    assert "the windlass, LiteRT" in drawn["W2"]
    assert "1,000" in drawn["W2"]
