"""`docker/build/finish.py`, which makes installed packages small and the same each time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = Path(__file__).resolve().parents[2] / "docker" / "build"
PACKAGES = Path("lib/python3.11/site-packages")


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A folder as a virtual environment has it, with one package."""
    package = tmp_path / "one" / PACKAGES / "tensorflow"
    (package / "include" / "deep").mkdir(parents=True)
    (package / "include" / "deep" / "api.h").write_text("int one;")
    (package / "module.py").write_text("WORDS = {'a', 'b', 'c'}\n\ndef f(x):\n    return x in {'d', 'e', 'f'}\n")
    (package / "template.py").write_text("this is no {{ python }}\n")
    (tmp_path / "one" / "bin").mkdir()
    (tmp_path / "one" / "bin" / "activate.fish").write_text("a shell's")
    (tmp_path / "one" / "bin" / "windlass-server").write_text("ours")
    return tmp_path / "one"


def _finish(folder: Path, listed: Path = BUILD / "removed.txt", *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BUILD / "finish.py"), str(folder), "--remove", str(listed), *more],
        capture_output=True,
        text=True,
        timeout=60,
    )


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_the_list_names_goes_and_the_rest_stays(environment: Path) -> None:
    done = _finish(environment)
    assert done.returncode == 0, done.stderr
    assert {name for name in _files(environment) if not name.endswith(".pyc")} == {
        "bin/windlass-server",
        f"{PACKAGES}/tensorflow/module.py",
        f"{PACKAGES}/tensorflow/template.py",
    }


def test_the_same_files_installed_at_another_time_give_the_same_bytes(environment: Path) -> None:
    untouched = environment.with_name("untouched")
    shutil.copytree(environment, untouched)
    results = []
    for modified in (1, 1_700_000_000):
        shutil.rmtree(environment)
        shutil.copytree(untouched, environment)
        os.utime(environment / PACKAGES / "tensorflow" / "module.py", (modified, modified))
        done = _finish(environment)
        assert done.returncode == 0, done.stderr
        results.append(_files(environment))
    assert any(name.endswith(".pyc") for name in results[0])
    assert results[0] == results[1]


def test_only_what_is_imported_is_compiled_when_a_list_says_so(environment: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(tmp_path / "new")], check=True)
    new = tmp_path / "new"
    packages = next(new.glob("lib/python3*/site-packages"))
    for name, text in (("used", "import used_by_it"), ("used_by_it", ""), ("unused", "")):
        (packages / f"{name}.py").write_text(text)
    (tmp_path / "list").write_text("used\nnot_installed.module\n")
    done = _finish(new, BUILD / "removed.txt", "--compile", str(tmp_path / "list"), "--editable")
    assert done.returncode == 0, done.stderr
    compiled = {path.name.split(".")[0] for path in packages.rglob("*.pyc")}
    assert compiled == {"used", "used_by_it"}


@pytest.mark.parametrize("pattern", ["/etc", "lib/../../etc"])
def test_a_pattern_that_leaves_the_folder_is_refused(environment: Path, tmp_path: Path, pattern: str) -> None:
    (tmp_path / "list").write_text(f"{pattern}  # everything\n")
    done = _finish(environment, tmp_path / "list")
    assert done.returncode != 0
    assert f"the pattern {pattern!r} leaves the folder" in done.stderr


@pytest.mark.parametrize("name", ["removed.txt", "removed-from-base.txt", "compiled.txt"])
def test_the_lists_are_in_order(name: str) -> None:
    lines = [line for line in (BUILD / name).read_text().splitlines() if line and line[0] != "#"]
    assert lines
    patterns = [line.split("#")[0].strip() for line in lines]
    assert len(set(patterns)) == len(patterns)
    if name == "removed.txt":
        assert all("  #" in line for line in lines), "each says why"
