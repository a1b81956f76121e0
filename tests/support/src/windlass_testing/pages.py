"""The commands in a page of the documentation, to be run as written."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]


def commands(page: Path) -> list[str]:
    """Lines that begin with `$ ` in ```console blocks, continued lines joined, in the page's order."""
    return [
        line.removeprefix("$ ")
        for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
        if line.startswith("$ ")
    ]
