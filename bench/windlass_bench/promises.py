"""What the benchmarks are to show, and whether this run did: ratios, so that the machine cancels out. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .models import BACKENDS
from .results import Ratio, Results, own, ratio

OF_THE_LIMIT = {"litert": 0.90, "tensorflow": 0.80}
"""Share of what the machine does in process with W2, decoder and model form being the same."""
LARGE_TENSORS = 0.90
"""The same of W3."""
TINY = 2.5
"""Times the best peer's rate with W1 and 64 connections."""
SCALED = 1.3
"""Times the best peer's rate with W2, each as documented, our manifest asking for scaled decoding."""
TAIL = 2.0
"""Times p50 that p99 of W2 may be."""
WORKER_PATH = "worker-path/one-worker"


@dataclass(frozen=True)
class Promise:
    """One line of the page's table."""

    what: str
    backend: str
    aim: str
    found: str
    kept: str
    """yes, no, or within noise: some pass kept it and the median didn't."""


def promises(results: Results) -> list[Promise]:
    """Those that the run has figures for."""
    found: list[Promise] = []
    for backend in BACKENDS:
        for level in (8.0, 32.0):
            found += _images(results, backend, level)
        found += _tiny(results, backend)
        found += _large(results, backend)
    return found


def _images(results: Results, backend: str, level: float) -> Iterator[Promise]:
    name, ours = f"W2, {level:g} connections", own(results, "same")
    rates = results.rates(ours, backend, "W2", level)
    yield from _least(
        f"{name}: of the limit in process",
        backend,
        OF_THE_LIMIT[backend],
        ratio(rates, results.limit_rates(backend, "W2")),
    )
    yield from _least(
        f"{name}: over the best peer, same", backend, 1.0, _over_best(results, backend, "W2", level, "same")
    )
    figure = results.figure(ours, backend, "W2", level)
    if figure is not None:
        yield _most(f"{name}: p99 over p50", backend, TAIL, figure.p99 / figure.p50)
    if results.servers("windlass", table="documented"):
        over = _over_best(results, backend, "W2", level, "documented")
        yield from _least(f"{name}: scaled decoding, over the best peer, documented", backend, SCALED, over)


def _tiny(results: Results, backend: str) -> Iterator[Promise]:
    many, one = "W1, 64 connections", "W1, 1 connection"
    over = _over_best(results, backend, "W1", 64.0, None)
    yield from _least(f"{many}: over the best peer", backend, TINY, over)
    rates = results.rates(own(results, "same"), backend, "W1", 64.0)
    floor = ratio(rates, results.rates(WORKER_PATH, backend, "W1", 64.0))
    yield from _least(f"{many}: over bare HTTP with the same worker (a stretch)", backend, 1.0, floor)
    ours = results.figure(own(results, "same"), backend, "W1", 1.0)
    peers = [results.figure(key, backend, "W1", 1.0) for key in results.servers("peer")]
    times = [each.p50 for each in peers if each is not None and not each.errors]
    if ours is not None and times:
        yield _most(f"{one}: p50 over the best peer's", backend, 1.0, ours.p50 / min(times))


def _large(results: Results, backend: str) -> Iterator[Promise]:
    limit, ours = results.limit_rates(backend, "W3"), own(results, "same")
    found = [ratio(results.rates(ours, backend, "W3", level), limit) for level in results.levels("W3")]
    best = max((each for each in found if each is not None), key=lambda each: each.value, default=None)
    yield from _least("W3: of the limit in process", backend, LARGE_TENSORS, best)


def _over_best(results: Results, backend: str, workload: str, level: float, table: str | None) -> Ratio | None:
    best = results.best_peer(backend, workload, level, table)
    if best is None:
        return None
    ours = own(results, table or "same")
    return ratio(results.rates(ours, backend, workload, level), results.rates(best[0], backend, workload, level))


def _least(what: str, backend: str, aim: float, found: Ratio | None) -> Iterator[Promise]:
    if found is not None:
        kept = "yes" if found.value >= aim else "within noise" if found.high >= aim else "no"
        yield Promise(what, backend, f"at least {aim:g}", str(found), kept)


def _most(what: str, backend: str, aim: float, found: float) -> Promise:
    return Promise(what, backend, f"at most {aim:g}", f"{found:.2f}", "yes" if found <= aim else "no")
