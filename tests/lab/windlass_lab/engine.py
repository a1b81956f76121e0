"""The Docker Engine: the lab's own, started and stopped here, or the machine's, looked at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from windlass_lab.commands import run, succeeds
from windlass_lab.errors import CommandError, LabError
from windlass_lab.home import SOCKET, Home, State, deadline
from windlass_lab.steps import Step, fingerprint

LABEL = "dev.windlass.lab"
"""The engine's label that says whose it is: LABEL=<the lab's folder>."""

INIT = "/usr/bin/tini-static"
"""What `docker run --init` puts before a command; of Debian's package tini."""

NO_IMAGE = "no such image"
"""What the client says of an image that isn't there, and of nothing else."""

START = 90
"""Seconds for dockerd to answer; after a kill it first ends what was left running."""


@dataclass(frozen=True)
class Engine:
    """A Docker Engine that answers."""

    id: str
    name: str
    version: str
    labels: tuple[str, ...]
    cgroup: str
    root: str

    def is_of(self, home: Home) -> bool:
        """Whether the lab of this folder started it."""
        return f"{LABEL}={home.path}" in self.labels


def ask(environment: dict[str, str]) -> Engine | None:
    """The engine that a docker client in this environment reaches; None when none answers or there is no client."""
    try:
        answer = json.loads(run("docker", "info", "--format", "{{json .}}", environment=environment, timeout=20))
    except (LabError, json.JSONDecodeError):
        return None
    if not answer.get("ID"):
        return None
    return Engine(
        id=answer["ID"],
        name=answer["Name"],
        version=answer["ServerVersion"],
        labels=tuple(answer.get("Labels") or ()),
        cgroup=answer.get("CgroupVersion", ""),
        root=answer.get("DockerRootDir", ""),
    )


def own(home: Home) -> Engine | None:
    """The lab's own engine, if it answers. Raises `LabError` when somebody else's sits at its socket."""
    found = ask(home.environment("built"))
    if found and not found.is_of(home):
        raise LabError(
            f"at {SOCKET} answers the Docker Engine {found.name!r} (data in {found.root}), which this lab didn't "
            f"start; stop it, or use it with LAB=system, or give the LAB_HOME that it belongs to (now {home.path})"
        )
    return found


def daemon_arguments(home: Home) -> list[str]:
    """How the lab starts dockerd: Docker's usual socket, everything else below its own folder."""
    return [
        str(home.libexec / "dockerd"),
        "--host",
        SOCKET,
        "--data-root",
        str(home.engine_data),
        "--config-file",
        str(home.path / "daemon.json"),
        "--pidfile",
        str(home.path / "dockerd.pid"),
        "--label",
        f"{LABEL}={home.path}",
        "--userland-proxy-path",
        str(home.libexec / "docker-proxy"),
        "--init-path",
        INIT,
    ]


def made_of(home: Home) -> str:
    """The engine's label that holds the fingerprint of its commands and arguments; with another it is started anew."""
    notes = sorted(file.read_text(encoding="utf-8") for file in home.done.glob("tools-engine-*"))
    return f"{LABEL}.fingerprint={fingerprint(*notes, *daemon_arguments(home))}"


def check_root() -> None:
    """Raises `LabError` for who may not start an engine."""
    if os.geteuid() != 0:
        raise LabError(
            "starting the Docker Engine needs root; run `make lab` as root, or install Docker with buildx and Compose, "
            "kind, kubectl and Helm, and run `make lab LAB=system`"
        )


def is_outdated(found: Engine, home: Home) -> bool:
    """Whether the lab's engine runs with other commands or arguments than it would be started with now."""
    return made_of(home) not in found.labels


def start(home: Home) -> None:
    """Starts dockerd, detached, and waits until it answers. Raises `LabError` with its log's end."""
    check_root()
    (home.path / "daemon.json").write_text("{}", encoding="utf-8")
    log = home.logs / "dockerd.log"
    until = deadline(START)
    attempts = 0
    while True:
        attempts += 1
        with log.open("ab") as out:
            daemon = subprocess.Popen(
                [*daemon_arguments(home), "--label", made_of(home)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=os.environ | {"PATH": f"{home.libexec}:{os.environ.get('PATH', os.defpath)}"},
            )
        while daemon.poll() is None and time.monotonic() < until:
            if own(home):
                return
            time.sleep(0.3)
        if attempts == 3 or time.monotonic() > until:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise LabError(f"dockerd doesn't answer, or ended (code {daemon.poll()}); its log {log} ends:\n{tail}")
        time.sleep(2)  # right after a kill the old daemon's mounts and containerd may linger for a moment


def processes_of(home: Home) -> dict[int, str]:
    """Processes whose program lies below the lab's libexec: dockerd, containerd and their shims, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            program = (entry / "exe").readlink()
        except OSError:
            continue  # ended in between, a kernel thread, or not ours to see
        name = str(program).removesuffix(" (deleted)")
        if Path(name).parent == home.libexec:
            found[int(entry.name)] = Path(name).name
    return found


def daemon(home: Home) -> int | None:
    """The process id of this lab's dockerd."""
    return next((pid for pid, name in processes_of(home).items() if name == "dockerd"), None)


def stop(home: Home, patience: float = 60) -> bool:
    """Stops the lab's dockerd with all its containers. Returns whether one was running."""
    pid = daemon(home)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    until = deadline(patience)
    while time.monotonic() < until:
        if daemon(home) is None:
            return True
        time.sleep(0.2)
    raise LabError(
        f"dockerd (process {pid}) doesn't end within {patience:g} s after SIGTERM; see {home.logs / 'dockerd.log'}"
    )


def works(home: Home) -> bool:
    """Whether the engine reaches its containerd; when that was killed dockerd answers, but can do nothing at first."""
    return succeeds("docker", "image", "ls", environment=home.environment("built"))


def _wait_until_it_works(home: Home) -> None:
    until = deadline(START)
    while not works(home):
        if time.monotonic() > until:
            log = home.logs / "dockerd.log"
            raise LabError(f"dockerd answers but can't list its images within {START} s; see {log}")
        time.sleep(0.3)


def step(home: Home, state: State) -> Step:
    """Starts the lab's engine unless it answers, and remembers its id."""

    def done() -> bool:
        found = own(home)
        known = found is not None and found.id == state.engine_id and not is_outdated(found, home)
        return known and works(home)

    def act() -> None:
        found = own(home)
        if found is not None and is_outdated(found, home):
            stop(home)
            found = None
        if found is None:
            start(home)
        _wait_until_it_works(home)
        found = own(home)
        if found is None:
            raise LabError("the engine answered and then stopped answering; see dockerd's log")
        state.engine_id, state.engine_name = found.id, found.name

    return Step("Docker Engine", done, act)


def image_labels(images: list[str], environment: dict[str, str]) -> dict[str, dict[str, str]]:
    """The labels of those of the images that are there. Raises `CommandError` when the engine can't tell."""
    found = {}
    for image in images:
        try:
            text = run(
                "docker",
                "image",
                "inspect",
                "--format",
                "{{json .Config.Labels}}",
                image,
                environment=environment,
                timeout=30,
            )
        except CommandError as error:
            if NO_IMAGE not in error.output.lower():
                raise
            continue
        found[image] = json.loads(text) or {}
    return found
