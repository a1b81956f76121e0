"""See `windlass_contract.schemas`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import FOLDER, drifted, write


def main() -> int:
    """Exit code 1: with `--check`, something has drifted."""
    parser = argparse.ArgumentParser(prog="python -m windlass_contract.schemas", description="Writes the JSON Schemas.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file has drifted")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the schemas are (default: in the package)")
    arguments = parser.parse_args()
    if not arguments.check:
        for name in write(arguments.folder):
            print(f"wrote {arguments.folder / name}")
        return 0
    names = drifted(arguments.folder)
    for name in names:
        print(f"{arguments.folder / name} isn't what the models say: run python -m windlass_contract.schemas")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
