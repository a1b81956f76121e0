"""Medians, ratios, the guard's comparison and the page, from documents written here."""

from __future__ import annotations

from typing import Any

import pytest

from windlass_bench import page
from windlass_bench.promises import promises
from windlass_bench.results import Ratio, Results, best_peers, figure, ratio, ratios, worse


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
    assert {key: each.value for key, each in found.items()} == {
        ("in process", "litert", "W2 at 8"): 0.9,
        ("slow/same", "litert", "W2 at 8"): 3.0,
        ("fast/same", "litert", "W2 at 8"): 1.5,
        ("floor/one", "litert", "W2 at 8"): 0.5,
    }


def test_a_ratio_has_the_least_and_the_most_of_its_passes():
    assert ratio({1: 100.0, 2: 120.0, 3: 110.0}, {1: 50.0, 2: 40.0}) == Ratio(110 / 45, 2.0, 3.0)
    assert str(ratio({1: 3.0}, {1: 2.0})) == "1.50"
    assert str(ratio({1: 3.0, 2: 4.0}, {1: 2.0, 2: 2.0})) == "1.75 (1.50 to 2.00)"
    assert ratio({1: 3.0}, {}) is None
    assert ratio({1: 3.0}, {1: 0.0}) is None


def test_servers_as_documented_are_compared_with_windlass_as_documented():
    cells = [cell("windlass/shipped", 1000), cell("plain/documented", 500), cell("fast/same", 500)]
    found = results(*cells)
    assert ratios(found)["plain/documented", "litert", "W2 at 8"].value == 2.0
    found = results(*cells, cell("windlass/scaled", 1500))
    found.document["servers"]["windlass/scaled"] = server("windlass", "documented")
    assert ratios(found)["plain/documented", "litert", "W2 at 8"].value == 3.0
    assert ratios(found)["fast/same", "litert", "W2 at 8"].value == 2.0


def kept(*cells: dict[str, Any], **fields: Any) -> dict[str, str]:
    return {each.what: each.kept for each in promises(results(*cells, **fields))}


@pytest.mark.parametrize(("ours", "expected"), [(1800, "yes"), (1700, "no")])
def test_a_share_of_the_limit_is_promised_for_images(ours: int, expected: str):
    assert kept(cell("windlass/shipped", ours))["W2, 8 connections: of the limit in process"] == expected


def test_a_promise_that_some_pass_keeps_is_within_noise():
    cells = [cell("windlass/shipped", 1000), cell("windlass/shipped", 900, **{"pass": 2})]
    cells += [cell("fast/same", 980), cell("fast/same", 1000, **{"pass": 2})]
    assert kept(*cells)["W2, 8 connections: over the best peer, same"] == "within noise"


def test_the_tail_may_be_twice_the_median():
    assert kept(cell("windlass/shipped", 1000, p99=20.0))["W2, 8 connections: p99 over p50"] == "yes"
    assert kept(cell("windlass/shipped", 1000, p99=20.1))["W2, 8 connections: p99 over p50"] == "no"


def test_tiny_requests_are_compared_with_the_best_peer_of_any_table():
    many = {"workload": "W1", "level": 64.0}
    found = kept(
        cell("windlass/shipped", 2400, **many), cell("fast/same", 900, **many), cell("plain/documented", 1000, **many)
    )
    assert found == {"W1, 64 connections: over the best peer": "no"}


def test_with_one_connection_the_time_of_an_answer_counts():
    one = {"workload": "W1", "level": 1.0}
    cells = [cell("windlass/shipped", 1000, p50=0.3, **one), cell("fast/same", 1000, p50=0.2, **one)]
    assert kept(*cells) == {"W1, 1 connection: p50 over the best peer's": "no"}
    cells[1]["errors"] = 1
    assert kept(*cells, cell("slow/same", 900, p50=0.4, **one)) == {"W1, 1 connection: p50 over the best peer's": "yes"}


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
