"""Finishes a folder of installed packages for an image: removes what a list names, strips TensorFlow's own libraries of
symbols that only debuggers read, and compiles what is imported, so that two builds give the same bytes.

    finish.py FOLDER --remove LIST [--strip PACKAGE...] [--compile LIST] [--editable]

FOLDER is a virtual environment, or a root. Nothing but Python's standard library (and `strip`) is used.
"""

from __future__ import annotations

import argparse
import compileall
import csv
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ELF = b"\x7fELF"


def patterns(text: str) -> list[str]:
    """The patterns of a list: one per line, relative to the folder; what follows `#` is why."""
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def remove(folder: Path, wanted: list[str]) -> int:
    """Removes what the patterns match; gives the bytes that went."""
    gone = 0
    for pattern in wanted:
        if pattern.startswith("/") or ".." in Path(pattern).parts:
            sys.exit(f"finish.py: the pattern {pattern!r} leaves the folder; write it relative to it")
        for path in sorted(folder.glob(pattern)):
            gone += sum(file.lstat().st_size for file in _files(path))
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.is_symlink() or path.exists():
                path.unlink()
    return gone


def strip(package: Path) -> int:
    """Strips the shared libraries of one package; gives the bytes that went."""
    gone = 0
    for file in _files(package):
        if file.is_symlink() or ".so" not in file.name or file.open("rb").read(4) != ELF:
            continue
        before = file.stat().st_size
        subprocess.run(["strip", "--strip-unneeded", "--preserve-dates", str(file)], check=True)  # noqa: S603, S607
        gone += before - file.stat().st_size
    return gone


def correct_records(packages: Path) -> None:
    """Takes out of each package's RECORD what isn't there any more, such as notes of the build's times."""
    for record in sorted(packages.glob("*.dist-info/RECORD")):
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        there = [line for line in lines if os.path.lexists(packages / next(csv.reader([line]))[0])]
        record.write_text("".join(there), encoding="utf-8")


def imported(folder: Path, names: list[str]) -> list[Path]:
    """The source files of all modules that are there once these have been imported; those that the folder doesn't
    have, as TensorFlow in the image without it, are left out."""
    done = subprocess.run(  # noqa: S603 - the environment's own Python
        [str(folder / "bin" / "python"), "-I", "-B", "-c", _IMPORT, *names], check=True, capture_output=True, text=True
    )
    inside = folder.resolve()
    found = {Path(line) for line in done.stdout.splitlines() if line.endswith(".py")}
    return sorted(path for path in found if path.is_relative_to(inside))


_IMPORT = """
import importlib, importlib.util, sys
for name in sys.argv[1:]:
    if importlib.util.find_spec(name.partition(".")[0]):
        importlib.import_module(name)
for module in list(sys.modules.values()):
    if getattr(module, "__file__", None):
        print(module.__file__)
"""


def compile_files(files: list[Path], *, editable: bool) -> None:
    """Compiles modules to code that holds no time of the build. `editable`: Python compares it with its source at each
    import, which takes a little; else it is trusted as it is, whatever becomes of the source."""
    mode = py_compile.PycInvalidationMode.CHECKED_HASH if editable else py_compile.PycInvalidationMode.UNCHECKED_HASH
    for file in files:  # in one process and always in the same order, for the same bytes
        # Packages ship templates and examples for other versions of Python, which can't be compiled: no output.
        compileall.compile_file(file, quiet=2, force=True, invalidation_mode=mode)


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or path.is_file():
        yield path
    for parent, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            yield Path(parent, name)
        for name in folders:
            if Path(parent, name).is_symlink():
                yield Path(parent, name)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="finish.py")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--remove", type=Path, required=True, metavar="LIST")
    parser.add_argument("--strip", nargs="+", default=[], metavar="PACKAGE")
    parser.add_argument("--compile", type=Path, metavar="LIST", help="only what these modules import; else everything")
    parser.add_argument("--editable", action="store_true")
    given = parser.parse_args()
    print(f"removed {remove(given.folder, patterns(given.remove.read_text())) / 1e6:.1f} MB")
    if given.folder == Path("/"):
        return
    packages = sorted(given.folder.glob("lib/python3*/site-packages"))
    for package in given.strip:
        print(f"stripped {sum(strip(folder / package) for folder in packages) / 1e6:.1f} MB of {package}")
    for folder in packages:
        correct_records(folder)
    if given.compile is not None:
        files = imported(given.folder, patterns(given.compile.read_text()))
    else:
        files = [file for folder in packages for file in _files(folder) if file.suffix == ".py"]
    compile_files(files, editable=given.editable)
    print(f"compiled {len(files)} modules")


if __name__ == "__main__":
    main()
