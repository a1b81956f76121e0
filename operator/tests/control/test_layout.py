"""The folder is called like a module of the standard library; it must never take its place."""

from __future__ import annotations

import operator
import sysconfig
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2]


def test_import_operator_is_the_standard_librarys() -> None:
    assert operator.__file__ is not None
    assert Path(operator.__file__).resolve() == Path(sysconfig.get_path("stdlib")).resolve() / "operator.py"
    assert operator.itemgetter(1)((1, 2)) == 2


def test_the_folder_has_nothing_that_would_make_it_that_module() -> None:
    assert FOLDER.name == "operator"
    for name in ("__init__.py", "conftest.py"):
        assert not (FOLDER / name).exists(), f"{FOLDER / name} would shadow the standard library's operator"
