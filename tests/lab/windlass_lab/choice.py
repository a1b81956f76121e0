"""System or built: the machine's tools if all are there and images can be pulled; else everything is built."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass

from windlass_lab.commands import run, succeeds
from windlass_lab.engine import ask
from windlass_lab.errors import LabError
from windlass_lab.home import Home, Mode, State
from windlass_lab.images import can_pull
from windlass_lab.versions import Versions

COMMANDS = ("docker", "kind", "kubectl", "helm")


@dataclass(frozen=True)
class Choice:
    """The mode and why."""

    mode: Mode
    why: str


def lacks(home: Home, versions: Versions) -> list[str]:
    """What the machine lacks for `system`, in words; empty when it lacks nothing."""
    environment = home.environment("system")
    lacking = [f"no `{command}` on the PATH" for command in COMMANDS if not shutil.which(command)]
    if "no `docker` on the PATH" in lacking:
        return lacking
    lacking.extend(
        f"no `docker {plugin}`"
        for plugin in ("buildx", "compose")
        if not succeeds("docker", plugin, "version", environment=environment)
    )
    engine = ask(environment)
    if engine is None:
        lacking.append("no Docker Engine answers")
    elif engine.is_of(home):
        lacking.append("the Docker Engine that answers is the lab's own")
    if not lacking:
        reason = can_pull(versions.node, environment)
        if reason:
            lacking.append(f"{versions.node} can't be pulled ({reason})")
    return lacking


def choose(home: Home, versions: Versions, state: State) -> Choice:
    """Decides; LAB=system or LAB=built forces. What stands already is kept.

    Raises `LabError` when the forced mode can't be, or isn't the one that stands.
    """
    forced = os.environ.get("LAB", "")
    if forced not in ("", "system", "built"):
        raise LabError(f"LAB={forced} isn't known; it is system, built, or not set")
    if state.mode:
        if forced and forced != state.mode:
            raise LabError(f"LAB={forced} is asked for, but the lab stands as {state.mode}; run `make lab-down` first")
        return Choice(state.mode, "as it stands")
    if forced == "built":
        return Choice("built", "LAB=built")
    lacking = lacks(home, versions)
    if not lacking:
        return Choice("system", "LAB=system" if forced else "everything is here and images can be pulled")
    if forced == "system":
        raise LabError(f"LAB=system is asked for, but: {'; '.join(lacking)}")
    if sys.platform != "linux":
        raise LabError(
            f"the lab's tools are built on Linux only, and this machine lacks for LAB=system: {'; '.join(lacking)}"
        )
    return Choice("built", "; ".join(lacking))


def helms(environment: dict[str, str]) -> dict[int, str]:
    """The Helm commands on the PATH by major version."""
    found: dict[int, str] = {}
    for command in ("helm", "helm3", "helm4"):
        path = shutil.which(command, path=environment.get("PATH"))
        if path is None:
            continue
        version = re.match(
            r"v(\d+)\.", run(path, "version", "--template", "{{.Version}}", environment=environment, timeout=20)
        )
        if version:
            found.setdefault(int(version[1]), path)
    return found
