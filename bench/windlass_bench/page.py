"""docs/benchmarks.md and its plots, from a run's document."""

from __future__ import annotations

from collections.abc import Iterable

from windlass_testing.plots import bars

from .models import BACKENDS
from .places import PAGE
from .promises import promises
from .results import Figure, Ratio, Results, best_peers, ratios
from .workloads import TITLES, TOLERANCE

_TABLES = {
    "same": "Same decoder and same model form in every server",
    "documented": "Each as its own documentation writes the example",
}
_BACKEND_TITLE = {"tensorflow": "TensorFlow", "litert": "LiteRT"}


def write(results: Results) -> None:
    """The page, and the plots beside it."""
    for old in PAGE.parent.glob("benchmarks-*.svg"):
        old.unlink()
    for name, drawing in plots(results).items():
        (PAGE.parent / f"benchmarks-{name}.svg").write_text(drawing)
    PAGE.write_text(text(results))


def text(results: Results) -> str:
    """The page as Markdown."""
    return "\n".join(
        [
            *_head(results),
            *_promises(results),
            *_ratio_tables(results),
            *_figures(results),
            *_starts(results),
            *_foot(results),
            "",
        ]
    )


def _head(results: Results) -> list[str]:
    document = results.document
    seconds, passes = document["seconds"], max((each["pass"] for each in document["cells"]), default=0)
    return [
        "# Benchmarks",
        "",
        "Windlass, other model servers, and what this machine can do at most, in one run. Written by `make bench` from",
        "`docs/benchmarks.json`, not by hand; [bench/README.md](../bench/README.md) says how it is measured.",
        "",
        f"- {document['date']}, commit {document.get('commit', '?')}; {document['machine']}; "
        f"load average before: {document['load before']}.",
        f"- Closed loop by {document['generator']}, open loop by the project's own generator; both share the cores",
        "  with the server.",
        f"- Passes: {passes}, servers in turn, each started fresh; windows of {seconds['window']:g} s after "
        f"{seconds['warm_up']:g} s; medians.",
        f"- Answers are compared with the model's own before and after the load (within {TOLERANCE:g}).",
        "- Ratios of one run tell more than its absolute figures. *Spread* is by how much the passes differ.",
        "",
    ]


def _promises(results: Results) -> list[str]:
    lines = ["## What is to hold", ""]
    lines += [
        "In brackets: the least and the most of any pass. *Within noise*: some pass keeps it, the median doesn't."
    ]
    lines += ["", "| what | backend | aim | found | kept |", "|---|---|---|---|---|"]
    lines += [
        f"| {each.what} | {_BACKEND_TITLE[each.backend]} | {each.aim} | {each.found} | {each.kept} |"
        for each in promises(results)
    ]
    return [*lines, ""]


def _ratio_tables(results: Results) -> list[str]:
    found = ratios(results)
    places = sorted({place for _, _, place in found}, key=_place)
    lines = ["## Ratios", "", "Windlass' requests per second over those of the limit, and over the best peer's.", ""]
    lines += [
        "| workload | backend | of the limit in process | over the best peer, same | over the best peer, documented |"
    ]
    lines += ["|---|---|---|---|---|"]
    for place in places:
        workload, _, level = place.partition(" at ")
        for backend in BACKENDS:
            limit = found.get(("in process", backend, place))
            cells = [_share(limit)]
            for table in _TABLES:
                best = results.best_peer(backend, workload, float(level), table)
                ratio = found.get((best[0], backend, place)) if best is not None else None
                cells.append("" if ratio is None or best is None else f"{ratio} times {_title(results, best[0])}")
            if any(cells):
                lines.append(f"| {workload}, {level} connections | {_BACKEND_TITLE[backend]} | {' | '.join(cells)} |")
    return [*lines, ""]


def _place(place: str) -> tuple[str, float]:
    workload, _, level = place.partition(" at ")
    return workload, float(level)


def _share(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    return (
        f"{ratio.value:.0%}" if ratio.low == ratio.high else f"{ratio.value:.0%} ({ratio.low:.0%} to {ratio.high:.0%})"
    )


def _title(results: Results, key: str) -> str:
    return str(results.document["servers"][key]["title"])


def _figures(results: Results) -> list[str]:
    lines = []
    for workload, title in TITLES.items():
        if not results.levels(workload) and not results.levels(workload, "open"):
            continue
        lines += [f"## {workload}: {title}", ""]
        for backend in BACKENDS:
            lines += _closed(results, workload, backend)
            lines += _open(results, workload, backend)
    for name in plots(results):
        lines += [f"![{name}](benchmarks-{name}.svg)", ""]
    return lines


def _closed(results: Results, workload: str, backend: str) -> list[str]:
    levels = results.levels(workload)
    rows = _rows(results, workload, backend, levels, "closed")
    if not rows:
        return []
    heads = [f"{level:g} connections: per s | p50 / p99 ms" for level in levels]
    lines = [
        f"### {_BACKEND_TITLE[backend]}, closed loop", "",
        f"| server | table | {' | '.join(heads)} | CPU s per 1000 | errors | spread |",
        "|---|---|" + "---|" * (2 * len(levels) + 3),
    ]  # fmt: skip
    limit = results.limit(backend, workload)
    if limit is not None:
        lines.append(f"| *in process* | limit | {' | '.join([f'{limit:.0f} | '] * len(levels))} | | | |")
    for key, figures in rows:
        present = [each for each in figures if each is not None]
        middle = present[len(present) // 2]
        shown = " | ".join(f"{each.rate:.0f} | {each.p50:.2f} / {each.p99:.2f}" if each else " | " for each in figures)
        table = results.document["servers"][key]["table"]
        lines.append(
            f"| {_title(results, key)} | {table} | {shown} | {middle.cpu_per_1000:.2f} | "
            f"{sum(each.errors for each in present)} | {max(each.spread for each in present):.0%} |"
        )
    return [*lines, ""]


def _open(results: Results, workload: str, backend: str) -> list[str]:
    levels = results.levels(workload, "open")
    rows = _rows(results, workload, backend, levels, "open")
    if not rows:
        return []
    lines = [
        f"### {_BACKEND_TITLE[backend]}, open loop", "",
        "Answers' times count from when their request was due by the timetable.", "",
        f"| server | {' | '.join(f'{level:g} per s: answered per s | p50 / p99 ms | errors' for level in levels)} |",
        "|---|" + "---|" * (3 * len(levels)),
    ]  # fmt: skip
    for key, figures in rows:
        shown = " | ".join(
            f"{each.rate:.0f} | {each.p50:.2f} / {each.p99:.2f} | {each.errors}" if each else " | | "
            for each in figures
        )
        lines.append(f"| {_title(results, key)} | {shown} |")
    return [*lines, ""]


def _rows(
    results: Results, workload: str, backend: str, levels: Iterable[float], loop: str
) -> list[tuple[str, list[Figure | None]]]:
    """Servers with their figures by level, fastest first."""
    rows = []
    for key in results.document["servers"]:
        figures = [
            results.figure(key, backend, workload, level, loop) or results.figure(key, "none", workload, level, loop)
            for level in levels
        ]
        if any(figures):
            rows.append((key, figures))
    return sorted(rows, key=lambda row: -max(each.rate for each in row[1] if each is not None))


def _starts(results: Results) -> list[str]:
    lines = [
        "## Start and memory", "",
        "Seconds from the start of the process until both models answer, the least of the passes; memory of all its",
        "processes (proportional set size) then, and after the load.", "",
        "| server | backend | start s | MB at the start | MB after the load |", "|---|---|---|---|---|",
    ]  # fmt: skip
    groups: dict[tuple[str, str], list[dict[str, float]]] = {}
    for each in results.document["starts"]:
        groups.setdefault((each["server"], each["backend"]), []).append(each)
    for (key, backend), found in sorted(groups.items()):
        after = [each["memory_after_mb"] for each in found if "memory_after_mb" in each]
        cells = [
            _title(results, key),
            _BACKEND_TITLE.get(backend, ""),
            f"{min(each['seconds'] for each in found):.1f}",
            f"{max(each['memory_mb'] for each in found):.0f}",
            f"{max(after):.0f}" if after else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _foot(results: Results) -> list[str]:
    document = results.document
    lines = ["## Versions", ""]
    for each in document["servers"].values():
        named = ", ".join(f"{name} {version}" for name, version in each["versions"].items())
        lines.append(f"- {each['title']}: {named}")
    lines += ["", "## Caveats", ""]
    lines += [
        "- The weights are random, so differences in pixels show more than with a trained network.",
        "- TensorFlow Serving's own program and Triton's container can't be had from a package index; Triton runs by",
        "  way of pytriton.",
        "- With TensorFlow, Windlass runs W2's and W3's network with constants in place of its variables, which it",
        "  finds out for itself when it loads a version; limit and peers run it as it was saved. So the limit can be",
        "  passed.",
        "- With several processes on one socket connections land unevenly on them, which moves a peer's figures",
        "  between passes.",
        "- A peer without a row can't be asked for that workload, or didn't come up (below).",
    ]
    if (change := document.get("scaled decoding")) is not None:
        same = "the same" if change["same class"] else "another"
        lines.append(
            f"- Scaled decoding changes the answer to W2's picture: a score by up to "
            f"{change['largest difference']:.3f} "
            f"(the best one is {change['largest score']:.3f}), the best class is {same}."
        )
    best = best_peers(results)
    if best:
        lines.append(f"- The best peers over everything: {', '.join(_title(results, key) for key in best)}.")
    for failure in document["failures"]:
        first = str(failure["why"]).splitlines()[0]
        where = [failure["server"], failure["backend"], failure.get("workload"), f"pass {failure['pass']}"]
        lines.append(f"- Left out: {', '.join(part for part in where if part)}: {first}")
    return lines


def plots(results: Results) -> dict[str, str]:
    """SVG by name: for each workload the rate of each server at the highest load, as bars."""
    drawn = {}
    for workload in TITLES:
        levels = results.levels(workload)
        if not levels:
            continue
        rates = []
        for backend in BACKENDS:
            for key, figures in _rows(results, workload, backend, levels[-1:], "closed"):
                if figures[0] is not None:
                    rates.append((f"{_title(results, key)}, {_BACKEND_TITLE[backend]}", figures[0].rate, key))
            limit = results.limit(backend, workload)
            if limit is not None:
                rates.append((f"in process, {_BACKEND_TITLE[backend]}", limit, ""))
        rates.sort(key=lambda rate: -rate[1])
        ours = set(results.servers("windlass"))
        drawn[workload] = bars(
            f"{workload}, {levels[-1]:g} connections: requests per second",
            [(name, rate, "#27c" if key in ours else "#bbb" if key else "#c93") for name, rate, key in rates],
        )
    return drawn
