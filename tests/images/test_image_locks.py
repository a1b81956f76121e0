"""What an image installs is a part of what the tests run with: the same versions, the same sums."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "server": {"app": ("tensorflow", "litert", "postgresql"), "cli": ("convert",), "contract": ()},
    "litert": {"app": ("litert", "postgresql"), "cli": (), "contract": ()},
    "operator": {"operator": (), "contract": ()},
}
"""Of each lock: folder of a part to the extras that the image has of it."""

every_lock = pytest.mark.parametrize("lock", PARTS)


def _entries(path: Path) -> dict[str, frozenset[str]]:
    """`name==version` to its sums."""
    text = path.read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and line[0] not in "#-":
            pin, *rest = re.split(r"\s+", line.strip())
            found[pin] = frozenset(word for word in rest if word.startswith("--hash="))
    return found


def _needs(part: str, extras: tuple[str, ...]) -> set[str]:
    project = tomllib.loads((ROOT / part / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    names = {re.match(r"[A-Za-z0-9._-]+", each)[0] for each in wanted}  # type: ignore[index]
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names if not name.startswith("windlass-")}


@every_lock
def test_the_lock_of_an_image_is_a_part_of_the_whole(lock: str) -> None:
    whole = _entries(ROOT / "requirements.lock")
    part = _entries(ROOT / "docker" / "requirements" / f"{lock}.lock")
    assert len(part) > 10
    for pin, sums in part.items():
        assert sums
        assert whole.get(pin) == sums, f"{pin} of {lock}.lock isn't in requirements.lock so: run make lock"


@every_lock
def test_the_lock_of_an_image_has_all_that_its_parts_need(lock: str) -> None:
    names = {pin.split("==")[0] for pin in _entries(ROOT / "docker" / "requirements" / f"{lock}.lock")}
    for part, extras in PARTS[lock].items():
        assert _needs(part, extras) <= names, f"{lock}.lock lacks something: run make lock"


def test_only_the_image_with_tensorflow_has_tensorflow() -> None:
    has = {
        lock: any(pin.startswith("tensorflow") for pin in _entries(ROOT / "docker" / "requirements" / f"{lock}.lock"))
        for lock in PARTS
    }
    assert has == {"server": True, "litert": False, "operator": False}
