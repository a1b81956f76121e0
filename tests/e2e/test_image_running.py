"""The images as they are meant to be run: any user, nothing writable, no rights; and what they do there."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_kit import HARDENED, Images, readable, running, shared_folder
from uploads import send_together
from windlass_lab.errors import CommandError
from windlass_lab.testing.docker import DockerEngine
from windlass_lab.testing.waiting import until

from windlass_testing.evidence import measured
from windlass_testing.load import Load, Request
from windlass_testing.models import affine, affine_tflite

pytestmark = pytest.mark.lab

STATE = "--tmpfs=/var/lib/windlass/server:mode=1777"
ANY_USER = "--user=1234567890:4294967"


@pytest.fixture(scope="module")
def models() -> Iterator[Path]:
    """linear/1 answers 2 x, by TensorFlow; lite/1 answers 3 x, by LiteRT."""
    folder = shared_folder()
    affine(folder, "linear", 1, 2.0, 0.0)
    affine_tflite(folder, "lite", 1, 3.0, 0.0)
    readable(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def lite(models: Path) -> Iterator[Path]:
    """Only the model of LiteRT."""
    folder = shared_folder()
    shutil.copytree(models / "lite", folder / "lite")
    yield folder
    shutil.rmtree(folder)


def test_any_user_serves_from_a_read_only_root_without_rights(
    docker_engine: DockerEngine, made_images: Images, models: Path
) -> None:
    options = (*HARDENED, STATE, ANY_USER, f"--volume={models}:/models:ro")
    with running(docker_engine, made_images.server, options=options) as container:
        container.wait_until_ready()
        assert container.predict("linear", 4.0).json() == {"predictions": [[8.0]]}
        assert container.predict("lite", 4.0).json() == {"predictions": [[12.0]]}
        container.wait_for_health("healthy")
        answer = container.get("/health")
        assert answer is not None
        health = answer.json()
        assert (health["status"], health["reasons"]) == ("ok", [])
        # Docker's default profile allows no user namespaces: the network's is the only measure that it costs.
        network = health["confinement"].pop("network")
        assert set(health["confinement"].values()) == {"in force"}, health["confinement"]
        assert network.startswith("not in force")
        assert container.stop() == 0
        assert "Traceback" not in container.logs


def test_what_has_to_be_writable_is_named_when_it_is_not(
    docker_engine: DockerEngine, made_images: Images, lite: Path
) -> None:
    """No state folder: it serves and says what is lost. No scratch: it can't run models, and says what to do."""
    volume = f"--volume={lite}:/models:ro"
    with running(docker_engine, made_images.litert, options=(*HARDENED, volume)) as container:
        container.wait_until_ready()
        assert "the state folder can't be written" in container.logs
        assert container.stop() == 0
    with running(docker_engine, made_images.litert, options=("--read-only", volume)) as container:
        until("it has ended", lambda: not container.state["Running"])
        assert container.state["ExitCode"] == 1
        assert "temporary directory" in container.logs
        assert "Traceback" not in container.logs


def test_the_operator_runs_likewise(docker_engine: DockerEngine, made_images: Images) -> None:
    options = (*HARDENED, ANY_USER, "--tmpfs=/var/lib/windlass/operator:mode=1777", "--tmpfs=/versions:mode=1777")
    arguments = ("directory", "/versions", "--state", "/var/lib/windlass/operator", "--server", "one")
    with running(docker_engine, made_images.operator, *arguments, options=options) as container:
        container.wait_for_health("healthy")
        assert container.stop() == 0
        assert "Traceback" not in container.logs


@pytest.mark.alone
@pytest.mark.evidence
@pytest.mark.parametrize(("kind", "model", "limit"), [("server", "linear", 5.0), ("litert", "lite", 2.0)])
def test_it_is_ready_soon(
    docker_engine: DockerEngine, made_images: Images, models: Path, kind: str, model: str, limit: float, tmp_path: Path
) -> None:
    """The first run warms the page cache and doesn't count."""
    only = shared_folder()
    shutil.copytree(models / model, only / model)
    seconds = []
    for _ in range(4):
        options = (*HARDENED, STATE, f"--volume={only}:/models:ro")
        with running(docker_engine, getattr(made_images, kind), options=options) as container:
            seconds.append(container.wait_until_ready())
    shutil.rmtree(only)
    median = statistics.median(seconds[1:])
    measured(
        "image-start",
        f"{kind}: from `docker run` to ready with one small model, warm page cache, median of 3",
        f"{median:.1f} s (the first {seconds[0]:.1f} s); at most {limit:g} s",
        "make e2e-alone",
    )
    assert median <= limit, seconds


def test_orphans_are_reaped(docker_engine: DockerEngine, made_images: Images, lite: Path) -> None:
    orphan = "import os, time; os.fork() and os._exit(0); os.fork() and os._exit(0); time.sleep(0.3)"
    with running(docker_engine, made_images.litert, options=(f"--volume={lite}:/models:ro",)) as container:
        container.wait_until_ready()
        docker_engine("exec", container.name, "python", "-c", orphan)

        def commands() -> list[str]:
            return docker_engine("top", container.name, "-eo", "pid,stat,args").splitlines()[1:]

        until("the orphan has ended", lambda: not any(orphan[:20] in line for line in commands()))
        until("no zombie is left", lambda: not any(" Z" in line for line in commands()))


def test_a_stop_under_load_loses_nothing(docker_engine: DockerEngine, made_images: Images, lite: Path) -> None:
    """Who comes when the port is closed finds nobody, and isn't lost: with two replicas the other one answers."""
    options = (*HARDENED, STATE, f"--volume={lite}:/models:ro")
    with running(docker_engine, made_images.litert, options=options) as container:
        container.wait_until_ready()
        request = Request("/v1/models/lite:predict", {"instances": [[1.0]]})
        with Load(container.url, [request], rate=100) as load:
            until("it is under load", lambda: len(load.answers) > 100)
            code = container.stop()
        nobody = re.compile("ConnectionRefusedError|No route to host|OSError\\(113")
        # Once the container's address is gone, what is sent there is dropped without a word, for as long as the host
        # believes that it knows the way. By then the port is closed: others were refused before.
        closed = min((answer.sent for answer in load.lost if nobody.search(answer.error)), default=float("inf"))
        dropped = [answer for answer in load.lost if answer.error == "TimeoutError()" and answer.sent > closed]
        lost = [answer for answer in load.lost if not nobody.search(answer.error) and answer not in dropped]
        answered = sum(not answer.lost for answer in load.answers)
        measured(
            "nothing-lost",
            "`docker stop` of one container under 100 requests/s",
            f"{len(lost)} of {answered} admitted requests lost",
            "make e2e",
        )
        assert code == 0, container.logs[-3000:]
        assert not lost, lost[:5]
        assert answered > 300, "requests are accepted while the drain delay lasts"


def test_a_stop_waits_for_a_large_body_that_is_on_its_way(
    docker_engine: DockerEngine, made_images: Images, lite: Path
) -> None:
    """Sent to the end only when the port has been closed for a while."""
    options = (*HARDENED, STATE, f"--volume={lite}:/models:ro")
    with running(docker_engine, made_images.litert, options=options) as container:
        container.wait_until_ready()
        url = f"{container.url}/v1/models/lite:predict"

        def stop() -> None:
            docker_engine("kill", "--signal=SIGTERM", container.name)
            until("the port is closed", lambda: container.get("/livez") is None)

        answers = send_together(url, b'{"instances": [[1.0]]}', 8 * 1024 * 1024, 2, stop)
        assert [(answer.status, answer.body) for answer in answers] == [(200, {"predictions": [[3.0]]})] * 2
        until("it has ended", lambda: not container.state["Running"])
        assert container.state["ExitCode"] == 0


def test_pack_runs_from_the_image(docker_engine: DockerEngine, made_images: Images, models: Path) -> None:
    """As the person who asks, into a folder of theirs; what comes out is served."""
    folder = shared_folder()
    try:
        folder.chmod(0o777)
        shutil.copytree(models / "linear" / "1", folder / "saved", ignore=shutil.ignore_patterns("manifest.json"))
        readable(folder / "saved")
        told = docker_engine(
            *("run", "--rm", *HARDENED, f"--user={os.getuid() or 1000}:{os.getgid() or 1000}"),
            *(f"--volume={folder}:/work", "--workdir=/work", "--entrypoint=windlass", made_images.server),
            *("pack", "saved", "--model", "packed", "--version", "7", "--output", "out"),
        )
        assert "sha256:" in told
        manifest = json.loads((folder / "out" / "packed" / "7" / "manifest.json").read_text())
        assert (manifest["model"], manifest["version"]) == ("packed", 7)
        options = (*HARDENED, STATE, f"--volume={folder / 'out'}:/models:ro")
        with running(docker_engine, made_images.server, options=options) as container:
            container.wait_until_ready()
            assert container.predict("packed", 4.0).json() == {"predictions": [[8.0]]}
    finally:
        shutil.rmtree(folder)


def test_a_wrong_setting_ends_it_with_the_reason(docker_engine: DockerEngine, made_images: Images) -> None:
    with pytest.raises(CommandError, match="--port"):
        docker_engine("run", "--rm", made_images.litert, "--port", "many")
