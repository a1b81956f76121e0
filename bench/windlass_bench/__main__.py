"""`python -m windlass_bench`: see bench/README.md."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from . import page, running
from .places import PAGE, RESULTS, ROOT, WORK
from .results import Results, best_peers, worse
from .servers import Variant, variants

QUICK_RESULTS = WORK / "quick.json"
FIRST_QUICK_PEERS = ("kserve/same", "ray-serve/same")
"""The two best peers until a run has said which they are."""


def main() -> None:
    """Exit code 1: a ratio fell beyond noise (`--guard`); 2: what was asked for doesn't exist, or can't be compared."""
    parser = argparse.ArgumentParser(
        prog="make bench", description="Windlass beside its peers and the machine's limits"
    )
    parser.add_argument("--quick", action="store_true", help="short: Windlass, the limits and the two best peers")
    parser.add_argument("--guard", action="store_true", help="compare with docs/benchmarks.json and leave that alone")
    parser.add_argument("--servers", default="", help="keys, separated by commas, in place of all; --list shows them")
    parser.add_argument("--passes", type=int, help="in place of three (with --quick: one)")
    parser.add_argument("--check", action="store_true", help="start each and compare its answers, without any load")
    parser.add_argument("--list", action="store_true", help="show the servers")
    parser.add_argument(
        "--page", nargs="?", const=RESULTS, type=Path, metavar="JSON",
        help="write docs/benchmarks.md anew from its JSON, or show the page of another's; nothing is run",
    )  # fmt: skip
    arguments = parser.parse_args()
    everyone = variants()
    if arguments.list:
        sys.stdout.write("".join(f"{each.key:30} {each.title}\n" for each in everyone))
        return
    if arguments.page:
        found = Results(json.loads(arguments.page.read_text()))
        if arguments.page == RESULTS:
            page.write(found)
        else:
            sys.stdout.write(page.text(found))
        return
    before = Results(json.loads(RESULTS.read_text())) if RESULTS.exists() else None
    chosen = _chosen(everyone, arguments.servers, before if arguments.quick else None, quick=arguments.quick)
    if arguments.check:
        sys.exit(1 if running.check(chosen) else 0)
    if arguments.guard and before is None:
        sys.exit(_refuse(f"{RESULTS.relative_to(ROOT)} isn't there: run make bench first"))
    amounts = running.QUICK if arguments.quick else running.FULL
    document = running.run(chosen, replace(amounts, passes=arguments.passes or amounts.passes))
    document["commit"] = running.commit()
    now = Results(document)
    if arguments.guard:
        assert before is not None
        sys.exit(_guard(before, now))
    target = QUICK_RESULTS if arguments.quick or arguments.servers else RESULTS
    target.write_text(json.dumps(document, indent=1) + "\n")
    sys.stdout.write(page.text(now))
    if target == RESULTS:
        page.write(now)
        print(f"written: {PAGE.relative_to(ROOT)}")
    print(f"raw results: {target.relative_to(ROOT)}")


def _chosen(everyone: list[Variant], names: str, before: Results | None, *, quick: bool) -> list[Variant]:
    if names:
        wanted = [name.strip() for name in names.split(",")]
        unknown = set(wanted) - {each.key for each in everyone}
        if unknown:
            sys.exit(_refuse(f"no such servers: {', '.join(sorted(unknown))}; --list shows them"))
        return [each for each in everyone if each.key in wanted]
    if not quick:
        return everyone
    peers = best_peers(before) if before is not None else list(FIRST_QUICK_PEERS)
    return [each for each in everyone if each.quick or each.key in peers]


def _guard(before: Results, now: Results) -> int:
    try:
        found = worse(before, now)
    except ValueError as error:
        return _refuse(str(error))
    for each in found:
        print(f"worse: {each.place}: {each.now:.2f}, it was {each.before:.2f} (noise: {each.allowed:.0%})")
    if not found:
        print("no ratio fell beyond noise")
    return 1 if found else 0


def _refuse(message: str) -> int:
    sys.stderr.write(f"make bench: {message}\n")
    return 2


if __name__ == "__main__":
    main()
