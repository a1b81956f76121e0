"""A copy of the checkout's files, for what edits them or leaves something beside them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from windlass_testing.pages import ROOT


def copy_checkout(folder: Path) -> None:
    """Copies what is in the checkout or could be added to it, and links `.venv` and `.tools`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    for name in listed.stdout.decode().split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)  # with its time: nothing is to be installed anew
    for name in (".venv", ".tools"):
        (folder / name).symlink_to(ROOT / name)
