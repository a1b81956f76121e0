"""The commands in a page of the documentation, to be run as written."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]


def commands(page: Path, section: str = "") -> list[str]:
    """Lines that begin with `$ ` in ```console blocks, continued lines joined, in the page's order. `section`: only
    those below `## <section>`. Raises `ValueError` when there is no such section."""
    text = page.read_text()
    if section:
        found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        if found is None:
            raise ValueError(f"{page.name} has no section {section!r}")
        text = found[1]
    return [
        line.removeprefix("$ ")
        for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
        if line.startswith("$ ")
    ]
