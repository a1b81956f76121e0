"""What a run found, and what can be said of it: medians, ratios, and whether a later run is worse. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

Cell = Mapping[str, Any]
"""One stretch of load: `server`, `backend`, `workload`, `loop` (closed, open), `level` (connections, or requests per
second), `pass`, and what `Loaded` says, with `cpu_seconds` of the server."""


@dataclass(frozen=True)
class Figure:
    """Of all passes of a cell, the median. Times in milliseconds."""

    rate: float
    """Requests per second."""
    p50: float
    p99: float
    cpu_per_1000: float
    """Seconds of the processors for 1000 requests."""
    errors: int
    """In all passes."""
    spread: float
    """Of the rates: (largest - smallest) / median."""
    passes: int


def figure(cells: Iterable[Cell]) -> Figure | None:
    """None: nothing was measured."""
    found = list(cells)
    if not found:
        return None
    rates = [each["requests"] / each["seconds"] for each in found]
    middle = median(rates)
    return Figure(
        rate=middle,
        p50=median(each["p50"] for each in found),
        p99=median(each["p99"] for each in found),
        cpu_per_1000=median(1000 * each["cpu_seconds"] / max(each["requests"], 1) for each in found),
        errors=sum(each["errors"] for each in found),
        spread=(max(rates) - min(rates)) / middle if middle else 0.0,
        passes=len(found),
    )


@dataclass(frozen=True)
class Results:
    """A run's document."""

    document: Mapping[str, Any]

    def select(self, **wanted: Any) -> list[Cell]:
        """Cells with these values."""
        return [each for each in self.document["cells"] if all(each[key] == value for key, value in wanted.items())]

    def figure(self, server: str, backend: str, workload: str, level: float, loop: str = "closed") -> Figure | None:
        """Of one server under one load."""
        return figure(self.select(server=server, backend=backend, workload=workload, level=level, loop=loop))

    def levels(self, workload: str, loop: str = "closed") -> list[float]:
        """That were measured, in order."""
        return sorted(
            {each["level"] for each in self.document["cells"] if (each["workload"], each["loop"]) == (workload, loop)}
        )

    def servers(self, *kinds: str, table: str | None = None) -> list[str]:
        """Keys, by kind and table."""
        return [
            key
            for key, each in self.document["servers"].items()
            if each["kind"] in kinds and (table is None or each["table"] == table)
        ]

    def limit(self, backend: str, workload: str) -> float | None:
        """Requests per second in process, the best way of the median of passes; None: not measured."""
        ways: dict[tuple[int, ...], list[float]] = {}
        for each in self.document["limits"]:
            if (each["backend"], each["workload"]) == (backend, workload):
                ways.setdefault((each["processes"], each["threads"], each["batch"]), []).append(each["requests"])
        return max((median(rates) for rates in ways.values()), default=None)

    def best_peer(
        self, backend: str, workload: str, level: float, table: str | None = None
    ) -> tuple[str, Figure] | None:
        """The peer with the highest rate, of those whose answers came without an error."""
        found = [
            (key, each)
            for key in self.servers("peer", table=table)
            if (each := self.figure(key, backend, workload, level)) is not None and not each.errors
        ]
        return max(found, key=lambda each: each[1].rate, default=None)


def best_peers(results: Results, count: int = 2) -> list[str]:
    """Keys of the peers that are best over everything that was measured: by the sum of the logarithms of their rates,
    relative to Windlass'; what a peer wasn't asked is no loss to it."""
    scores = {}
    for key in results.servers("peer"):
        logarithms = [
            math.log(ratio) for (server, _, _), ratio in ratios(results).items() if server == key and ratio > 0
        ]
        if logarithms:
            scores[key] = -sum(logarithms) / len(logarithms)
    return sorted(scores, key=lambda key: -scores[key])[:count]


def ratios(results: Results) -> dict[tuple[str, str, str], float]:
    """Windlass' rate over another's: a peer's, a limit's server's, and over what is possible in process (`in process`),
    by (other, backend, `workload at level`)."""
    found: dict[tuple[str, str, str], float] = {}
    ours = results.servers("windlass", table="same")
    for own in ours:
        for backend in sorted({each["backend"] for each in results.document["cells"] if each["server"] == own}):
            for workload in sorted({each["workload"] for each in results.document["cells"]}):
                limit = results.limit(backend, workload)
                for level in results.levels(workload):
                    figure_of_us = results.figure(own, backend, workload, level)
                    if figure_of_us is None:
                        continue
                    place = f"{workload} at {level:g}"
                    if limit:
                        found["in process", backend, place] = figure_of_us.rate / limit
                    for other in results.servers("peer", "limit"):
                        theirs = results.figure(other, backend, workload, level) or results.figure(
                            other, "none", workload, level
                        )
                        if theirs is not None and theirs.rate:
                            found[other, backend, place] = figure_of_us.rate / theirs.rate
    return found


@dataclass(frozen=True)
class Worse:
    """A ratio that fell by more than noise."""

    place: str
    before: float
    now: float
    allowed: float


LEAST_NOISE = 0.15
"""Share by which a ratio may fall anyway: what passes of one program differ by on a quiet machine."""


def noise(results: Results, keys: Iterable[str], backend: str, workload: str, level: float) -> float:
    """What the passes of these servers differ by, at least `LEAST_NOISE`."""
    spreads = [
        each.spread
        for key in keys
        for name in (backend, "none")
        if (each := results.figure(key, name, workload, level)) is not None
    ]
    return max([LEAST_NOISE, *spreads])


def worse(before: Results, now: Results) -> list[Worse]:
    """Ratios of both runs that fell. Raises `ValueError` when the two can't be compared."""
    for name in ("generator", "cores"):
        if before.document[name] != now.document[name]:
            raise ValueError(
                f"runs with different {name} can't be compared: {before.document[name]!r} and {now.document[name]!r}"
            )
    earlier, later = ratios(before), ratios(now)
    common = earlier.keys() & later.keys()
    if not common:
        raise ValueError("the two runs have no ratio in common: run it with the same servers and workloads")
    found = []
    own = now.servers("windlass", table="same")
    for place in sorted(common):
        other, backend, what = place
        workload, _, level = what.partition(" at ")
        keys = [*own, other]
        allowed = max(noise(each, keys, backend, workload, float(level)) for each in (before, now))
        if later[place] < earlier[place] * (1 - allowed):
            found.append(Worse(f"{what}, {backend}, over {other}", earlier[place], later[place], allowed))
    return found
