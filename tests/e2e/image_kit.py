"""The project's images in the lab's engine: built, run, looked into."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from windlass_lab.errors import CommandError
from windlass_lab.testing.docker import DockerEngine
from windlass_lab.testing.waiting import until

from windlass_contract.health import HEALTH

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "app" / "pyproject.toml").read_text())["project"]["version"]
HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
"""As the docs tell people to run the images."""


@dataclass(frozen=True)
class Images:
    """Their names in the engine."""

    server: str = f"windlass-server:{VERSION}"
    litert: str = f"windlass-server:{VERSION}-litert"
    debug: str = f"windlass-server:{VERSION}-debug"
    operator: str = f"windlass-operator:{VERSION}"


def build_images(engine: DockerEngine) -> Images:
    """`make images`, unless WINDLASS_IMAGES=there says to take those that are there. Raises `CommandError`."""
    if os.environ.get("WINDLASS_IMAGES") == "there":
        return Images()
    command = ["make", "images"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | engine.environment, capture_output=True, text=True, timeout=1200
    )
    if done.returncode != 0:
        raise CommandError(command, done.returncode, (done.stdout + done.stderr)[-5000:])
    return Images()


@dataclass
class Container:
    """A running container of ours. `started` is from just before `docker run`, in seconds of the monotonic clock."""

    engine: DockerEngine
    name: str
    started: float

    @property
    def state(self) -> dict[str, Any]:
        """`State` as the engine tells it."""
        found: dict[str, Any] = self.engine.inspect(self.name)["State"]
        return found

    @property
    def health(self) -> str:
        """What HEALTHCHECK made of it: starting, healthy or unhealthy."""
        return str(self.state["Health"]["Status"])

    @property
    def health_log(self) -> list[dict[str, Any]]:
        """The last checks with their output, oldest first."""
        found: list[dict[str, Any]] = self.state["Health"]["Log"] or []
        return found

    @property
    def address(self) -> str:
        """Its address on the engine's network."""
        networks = self.engine.inspect(self.name)["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    @property
    def url(self) -> str:
        """Of its port for clients."""
        return f"http://{self.address}:8000"

    @property
    def logs(self) -> str:
        """Standard output and error."""
        return self.engine("logs", self.name) + self._errors()

    def _errors(self) -> str:
        command = ["docker", "logs", self.name]
        return subprocess.run(
            command, env=os.environ | self.engine.environment, capture_output=True, text=True, timeout=60
        ).stderr

    def get(self, path: str) -> httpx.Response | None:
        """The answer; None when nobody is there."""
        try:
            return httpx.get(self.url + path, timeout=10)
        except httpx.HTTPError:
            return None

    def predict(self, model: str, x: float, timeout: float = 30) -> httpx.Response:
        """TensorFlow Serving's predict of one row."""
        return httpx.post(f"{self.url}/v1/models/{model}:predict", json={"instances": [[x]]}, timeout=timeout)

    def wait_until_ready(self, timeout: float = 180) -> float:
        """Waits for /readyz to be 200; gives the seconds since `docker run`."""
        address = ""

        def ready() -> bool:
            nonlocal address
            address = address or self.url
            try:
                return httpx.get(f"{address}/readyz", timeout=5).status_code == 200
            except httpx.HTTPError:
                assert self.state["Running"], f"it ended:\n{self.logs}"
                return False

        until("it is ready", ready, timeout=timeout, every=0.02)
        return time.monotonic() - self.started

    def wait_for_health(self, status: str, timeout: float = 180) -> None:
        """Waits until the engine says so; the failure tells the last checks."""
        try:
            until(f"the engine calls it {status}", lambda: self.health == status, timeout=timeout, every=0.2)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{json.dumps(self.health_log, indent=1)}\n{self.logs[-3000:]}") from error

    def stop(self) -> int:
        """`docker stop` with the grace period that the docs name; gives the exit code."""
        self.engine("stop", f"--time={HEALTH.stop_grace_period:g}", self.name)
        return int(self.state["ExitCode"])


@contextmanager
def running(engine: DockerEngine, image: str, *arguments: str, options: tuple[str, ...] = ()) -> Iterator[Container]:
    """`docker run` of an image in the background; removed afterwards."""
    name = f"windlass-image-{secrets.token_hex(4)}"
    started = time.monotonic()
    engine("run", "--detach", f"--name={name}", *options, image, *arguments)
    container = Container(engine, name, started)
    try:
        yield container
    except BaseException:
        print(f"--- {name}\n{container.logs[-6000:]}")
        raise
    finally:
        engine("rm", "--force", "--volumes", name)


def readable(folder: Path) -> None:
    """Lets every user read a folder: the containers' is another than the tests'."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


def shared_folder() -> Path:
    """A new folder that containers of any user can get at: pytest's own are for its user alone. To be removed."""
    folder = Path(tempfile.mkdtemp(prefix="windlass-e2e-"))
    folder.chmod(0o755)
    return folder
