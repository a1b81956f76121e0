"""Where the lab keeps what it makes, and the environment that leads commands there."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from windlass_lab.errors import LabError

Mode = Literal["system", "built"]
SOCKET = "unix:///var/run/docker.sock"
"""Where a built engine listens: Docker's own place, so that every client finds it."""

LONGEST_HOME = 70
"""Characters; Unix sockets below it have room for 108."""


@dataclass(frozen=True)
class Home:
    """The lab's folder. Removing it removes the lab, once `down` has stopped it."""

    path: Path

    @classmethod
    def of_environment(cls) -> Home:
        """LAB_HOME, or ~/.cache/windlass-lab."""
        given = os.environ.get("LAB_HOME")
        path = Path(given).absolute() if given else Path.home() / ".cache" / "windlass-lab"
        if len(str(path)) > LONGEST_HOME:
            raise LabError(
                f"LAB_HOME {path} is longer than {LONGEST_HOME} characters, too long for the sockets below it"
            )
        return cls(path)

    @property
    def bin(self) -> Path:
        """Commands for people: docker, kind, kubectl, helm, helm4."""
        return self.path / "bin"

    @property
    def libexec(self) -> Path:
        """Commands that run in the engine and in the nodes."""
        return self.path / "libexec"

    @property
    def extras(self) -> Path:
        """Commands that only some tests ask for."""
        return self.path / "extras"

    @property
    def plugins(self) -> Path:
        """Docker's client plug-ins: buildx and compose."""
        return self.docker_config / "cli-plugins"

    @property
    def docker_config(self) -> Path:
        """DOCKER_CONFIG of a built client; nobody's ~/.docker is touched."""
        return self.path / "docker-config"

    @property
    def engine_data(self) -> Path:
        """The built engine's images, containers and volumes."""
        return self.path / "docker"

    @property
    def logs(self) -> Path:
        """One log for each step, and dockerd's."""
        return self.path / "logs"

    @property
    def done(self) -> Path:
        """One file for each finished step, holding the fingerprint of what went into it."""
        return self.path / "done"

    @property
    def shared(self) -> Path:
        """The folder that all nodes of the cluster have at /shared, for ReadWriteMany volumes."""
        return self.path / "shared"

    @property
    def kubeconfig(self) -> Path:
        """The cluster's kubeconfig; ~/.kube is left alone."""
        return self.path / "kubeconfig"

    def make(self) -> None:
        """Makes the folders, empty."""
        for folder in (self.path, self.bin, self.libexec, self.extras, self.plugins, self.logs, self.done, self.shared):
            folder.mkdir(parents=True, exist_ok=True)
        self.shared.chmod(0o1777)

    def environment(self, mode: Mode) -> dict[str, str]:
        """What commands need in their environment, beyond the caller's, to reach the lab."""
        added = {
            "PATH": f"{self.bin}:{os.environ.get('PATH', os.defpath)}",
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.path / "kube-cache"),
            "HELM_CACHE_HOME": str(self.path / "helm" / "cache"),
            "HELM_CONFIG_HOME": str(self.path / "helm" / "config"),
            "HELM_DATA_HOME": str(self.path / "helm" / "data"),
        }
        if mode == "built":
            added |= {"DOCKER_CONFIG": str(self.docker_config), "DOCKER_HOST": SOCKET}
        return added


@dataclass
class State:
    """What the lab made, so that it touches nothing else. Kept in `state.json`."""

    mode: Mode | None = None
    engine_id: str = ""
    engine_name: str = ""
    cluster: str = ""
    workers: int = 0
    nodes: dict[str, str] = field(default_factory=dict)  # name: container id
    seconds: dict[str, float] = field(default_factory=dict)  # how long each step took when it last ran

    @classmethod
    def read(cls, home: Home) -> State:
        """The state of this home; an empty one when nothing stands."""
        try:
            content: dict[str, Any] = json.loads((home.path / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except json.JSONDecodeError as error:
            raise LabError(
                f"{home.path / 'state.json'} can't be read ({error}); run `make lab-down`, then remove it"
            ) from error
        return cls(**content)

    def write(self, home: Home) -> None:
        """Writes it in one piece."""
        target = home.path / "state.json"
        beside = target.with_suffix(".partial")
        beside.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        beside.replace(target)


def duration(seconds: float) -> str:
    """A time for people: "0.4 s", "3 min 42 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def deadline(seconds: float) -> float:
    """The monotonic time that is `seconds` from now."""
    return time.monotonic() + seconds
