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
        rates = self.limit_rates(backend, workload)
        return median(rates.values()) if rates else None

    def limit_rates(self, backend: str, workload: str) -> dict[int, float]:
        """Of the best way, by pass."""
        ways: dict[tuple[int, ...], dict[int, float]] = {}
        for each in self.document["limits"]:
            if (each["backend"], each["workload"]) == (backend, workload):
                way = each["processes"], each["threads"], each["batch"]
                ways.setdefault(way, {})[each["pass"]] = each["requests"]
        return max(ways.values(), key=lambda rates: median(rates.values()), default={})

    def rates(self, server: str, backend: str, workload: str, level: float) -> dict[int, float]:
        """Requests per second of the closed loop, by pass. A server without models counts for every backend."""
        cells = self.select(server=server, workload=workload, level=level, loop="closed")
        return {
            each["pass"]: each["requests"] / each["seconds"] for each in cells if each["backend"] in {backend, "none"}
        }

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


@dataclass(frozen=True)
class Ratio:
    """Of the medians, and the least and the most of any pass."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}" if self.low == self.high else f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Ratio | None:
    """Of rates by pass. None: there is nothing to compare."""
    if not ours or not theirs or not median(theirs.values()):
        return None
    value = median(ours.values()) / median(theirs.values())
    each = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys() if theirs[number]]
    return Ratio(value, min([value, *each]), max([value, *each]))


def own(results: Results, table: str) -> str:
    """Windlass as it is compared with this table's servers: one that is meant for it, else as shipped."""
    found = [*results.servers("windlass", table=table), *results.servers("windlass", table="same")]
    return found[0] if found else ""


def best_peers(results: Results, count: int = 2) -> list[str]:
    """Keys of the peers that are best over everything that was measured: by the mean of the logarithms of their rates,
    relative to Windlass'; what a peer wasn't asked is no loss to it."""
    ours, scores = own(results, "same"), {}
    for key in results.servers("peer"):
        found = [ratio(results.rates(key, *place), results.rates(ours, *place)) for place in _places(results)]
        logarithms = [math.log(each.value) for each in found if each is not None and each.value > 0]
        if logarithms:
            scores[key] = sum(logarithms) / len(logarithms)
    return sorted(scores, key=lambda key: -scores[key])[:count]


def _places(results: Results) -> list[tuple[str, str, float]]:
    """Backend, workload and level of everything that Windlass was asked."""
    ours = {*results.servers("windlass")}
    found = {
        (each["backend"], each["workload"], each["level"])
        for each in results.document["cells"]
        if each["server"] in ours and each["loop"] == "closed"
    }
    return sorted(found)


def ratios(results: Results) -> dict[tuple[str, str, str], Ratio]:
    """Windlass' rate over another's: a peer's, a limit's server's, and over what is possible in process (`in process`),
    by (other, backend, `workload at level`)."""
    found: dict[tuple[str, str, str], Ratio | None] = {}
    for backend, workload, level in _places(results):
        place = f"{workload} at {level:g}"
        ours = results.rates(own(results, "same"), backend, workload, level)
        found["in process", backend, place] = ratio(ours, results.limit_rates(backend, workload))
        for other in results.servers("peer", "limit"):
            key = own(results, results.document["servers"][other]["table"])
            found[other, backend, place] = ratio(
                results.rates(key, backend, workload, level), results.rates(other, backend, workload, level)
            )
    return {key: each for key, each in found.items() if each is not None}


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
    for place in sorted(common):
        other, backend, what = place
        workload, _, level = what.partition(" at ")
        keys = [*now.servers("windlass"), other]
        allowed = max(noise(each, keys, backend, workload, float(level)) for each in (before, now))
        earlier_value, value = earlier[place].value, later[place].value
        if value < earlier_value * (1 - allowed):
            found.append(Worse(f"{what}, {backend}, over {other}", earlier_value, value, allowed))
    return found
