"""See `windlass_contract.schemas`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from windlass_contract import crd

from . import FOLDER, drifted, write

GENERATED = {
    "charts/windlass-operator/files/crds/modelversions.windlass.dev.yaml": crd.as_yaml,
    "docs/model-version-reference.md": crd.as_page,
}
"""What else is made of the models, by its place in the repository."""


def main() -> int:
    """Exit code 1: with `--check`, something has drifted."""
    parser = argparse.ArgumentParser(prog="python -m windlass_contract.schemas", description="Writes the JSON Schemas.")
    parser.add_argument(
        "--repository", type=Path, help="also write what is generated outside the package, the CRD above all"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file has drifted")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the schemas are (default: in the package)")
    arguments = parser.parse_args()
    elsewhere = _outdated(arguments.repository) if arguments.repository else {}
    if not arguments.check:
        for path, text in elsewhere.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for path in [*(arguments.folder / name for name in write(arguments.folder)), *elsewhere]:
            print(f"wrote {path}")
        return 0
    paths = [*(arguments.folder / name for name in drifted(arguments.folder)), *elsewhere]
    for path in paths:
        print(f"{path} isn't what the models say: run python -m windlass_contract.schemas")
    return 1 if paths else 0


def _outdated(repository: Path) -> dict[Path, str]:
    """Files outside the package that aren't what they should be, and what they should be."""
    outdated = {}
    for name, make in GENERATED.items():
        path, text = repository / name, make()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            outdated[path] = text
    return outdated


if __name__ == "__main__":
    sys.exit(main())
