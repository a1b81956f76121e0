"""What is in the images, and how large they are."""

from __future__ import annotations

import re

import pytest
from image_kit import ROOT, VERSION, Images
from image_layers import Layer, configuration, layers
from windlass_lab.testing.docker import DockerEngine

from windlass_contract.health import HEALTH
from windlass_testing.evidence import measured

pytestmark = pytest.mark.lab

OFFICIAL_BASE = 130e6
"""Bytes, uncompressed, of the official python:3.11-slim-bookworm for amd64, rounded up. The lab's stand-in is made of
Debian's packages and fatter."""
BASE = "python:3.11-slim-bookworm"
LIMITS = {"server": 1.2e9, "litert": 0.36e9, "operator": 0.25e9}
"""Bytes, uncompressed, on the official base."""

every_image = pytest.mark.parametrize("kind", LIMITS)

NEVER = re.compile(
    r"(^|/)(\.git|\.svn|\.env|\.netrc|\.npmrc|\.pypirc|\.docker|\.ssh|\.aws|\.cache|\.pytest_cache|\.mypy_cache|"
    r"\.ruff_cache|node_modules|id_rsa|id_ed25519|uv-cache|CACHEDIR\.TAG|secrets?)(/|$)"
    r"|\.(key|pfx|p12|kdbx|deb|whl|orig|log)$"
    r"|^(root|home|build|source|wheels|tmp|var/cache|var/lib/apt/lists)/."
    r"|(^|/)(uv|uvx|pip\d?|pip3\.\d+|gcc|cc|ld|as|strip|objdump|curl|wget|git)$"
)
"""Paths that none of our layers may have: history, secrets, caches, tools."""


@pytest.fixture(scope="module")
def ours(docker_engine: DockerEngine, made_images: Images) -> dict[str, list[Layer]]:
    """The layers of each image above its base's."""
    beneath = set(docker_engine.inspect(BASE)["RootFS"]["Layers"])
    return {
        kind: [layer for layer in layers(docker_engine, getattr(made_images, kind)) if layer.digest not in beneath]
        for kind in LIMITS
    }


@every_image
def test_an_image_is_small(kind: str, ours: dict[str, list[Layer]]) -> None:
    above = sum(layer.uncompressed for layer in ours[kind])
    compressed = sum(layer.compressed for layer in ours[kind])
    total = above + OFFICIAL_BASE
    measured(
        "image-size",
        f"{kind}: layers above the base, and with the official base of {OFFICIAL_BASE / 1e6:.0f} MB",
        f"{above / 1e6:.0f} MB ({compressed / 1e6:.0f} MB compressed); {total / 1e6:.0f} MB in all, of at most "
        f"{LIMITS[kind] / 1e6:.0f}",
        "make e2e",
    )
    assert total <= LIMITS[kind]


@pytest.mark.soak
def test_it_is_smaller_than_the_plain_image_of_the_same_app(
    docker_engine: DockerEngine, ours: dict[str, list[Layer]]
) -> None:
    plain = f"windlass-plain:{VERSION}"
    docker_engine.build(plain, ROOT, f"--file={ROOT}/tests/e2e/images/plain.Dockerfile")
    beneath = set(docker_engine.inspect(BASE)["RootFS"]["Layers"])
    above = [layer for layer in layers(docker_engine, plain) if layer.digest not in beneath]
    size, ours_size = (sum(layer.uncompressed for layer in each) for each in (above, ours["server"]))
    packed, ours_packed = (sum(layer.compressed for layer in each) for each in (above, ours["server"]))
    measured(
        "image-size",
        "server beside a plain single-stage image of the same app, base and lock: layers above the base",
        f"{ours_size / 1e6:.0f} of {size / 1e6:.0f} MB ({ours_size / size:.0%}); compressed {ours_packed / 1e6:.0f} of "
        f"{packed / 1e6:.0f} MB ({ours_packed / packed:.0%})",
        "make soak-lab",
    )
    assert ours_size < size


@every_image
def test_no_layer_has_a_secret_a_cache_or_a_history(kind: str, ours: dict[str, list[Layer]]) -> None:
    found = [
        entry.path
        for layer in ours[kind]
        for entry in layer.entries
        if NEVER.search(entry.path) and "/.wh." not in f"/{entry.path}" and entry.is_file
    ]
    assert not found


@every_image
def test_what_is_in_our_layers_belongs_to_root_and_nobody_else_can_write_it(
    kind: str, ours: dict[str, list[Layer]]
) -> None:
    for layer in ours[kind]:
        for entry in layer.entries:
            assert (entry.user, entry.group) == (0, 0), entry
            assert not entry.mode & 0o6000, f"setuid or setgid: {entry}"
            if entry.is_file:
                assert not entry.mode & 0o022, entry
            elif not entry.path.startswith(("var/lib/windlass", "tmp")):
                assert entry.mode & 0o022 == 0 or entry.mode & 0o170000 == 0o120000 or entry.mode == 0o777, entry


@every_image
def test_no_installer_no_compiler_and_no_shell_script_is_left(
    kind: str, docker_engine: DockerEngine, made_images: Images
) -> None:
    code = """
import importlib.util, pathlib, shutil, sys
tools = "pip pip3 uv uvx gcc cc g++ ld as make strip git curl wget".split()
print("tools", [tool for tool in tools if shutil.which(tool)])
print("modules", [name for name in ("pip", "setuptools", "ensurepip", "wheel", "uv") if importlib.util.find_spec(name)])
scripts = []
for folder in ("/opt/windlass", "/usr/local/bin"):
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file() and path.open("rb").read(64).splitlines()[:1]:
            first = path.open("rb").read(64).splitlines()[0]
            if first.startswith(b"#!") and b"python" not in first:
                scripts.append(str(path))
print("scripts", scripts)
"""
    image = getattr(made_images, kind)
    told = docker_engine("run", "--rm", "--entrypoint=/usr/local/bin/python3", image, "-c", code)
    assert told.splitlines() == ["tools []", "modules []", "scripts []"]
    inside = docker_engine("run", "--rm", "--entrypoint=/opt/windlass/bin/python", image, "-c", code)
    assert inside.splitlines() == ["tools []", "modules []", "scripts []"]


@every_image
def test_the_configuration_says_how_it_is_run(kind: str, docker_engine: DockerEngine, made_images: Images) -> None:
    config = configuration(docker_engine, getattr(made_images, kind))
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"][:3] == ["/usr/bin/tini", "-s", "--"]
    assert not config.get("Volumes")
    assert config["StopSignal"] == "SIGTERM"
    check = config["Healthcheck"]
    assert check["Test"][:2] == ["CMD", "windlass-health"]
    nanoseconds = {name: check[name] / 1e9 for name in ("Interval", "Timeout", "StartPeriod", "StartInterval")}
    assert nanoseconds == {
        "Interval": HEALTH.interval,
        "Timeout": HEALTH.timeout,
        "StartPeriod": HEALTH.start_period,
        "StartInterval": HEALTH.start_interval,
    }
    assert check["Retries"] == HEALTH.retries
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"].startswith(VERSION)
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", labels["org.opencontainers.image.revision"])
    assert not [each for each in config["Env"] if re.search("TOKEN|PASSWORD|SECRET|KEY", each.split("=")[0])]


def test_only_the_litert_image_has_no_tensorflow(docker_engine: DockerEngine, made_images: Images) -> None:
    code = "import importlib.util as u; print([n for n in ('tensorflow', 'ai_edge_litert') if u.find_spec(n)])"
    for image, expected in (
        (made_images.server, ["tensorflow", "ai_edge_litert"]),
        (made_images.litert, ["ai_edge_litert"]),
        (made_images.operator, []),
    ):
        told = docker_engine("run", "--rm", "--entrypoint=python", image, "-c", code)
        assert told.strip() == str(expected)


def test_the_debug_image_has_a_shell_its_tools_and_a_root_that_can_be_written(
    docker_engine: DockerEngine, made_images: Images
) -> None:
    told = docker_engine(
        *("run", "--rm", made_images.debug, "bash", "-c"),
        "touch /opt/windlass/written && command -v gdb strace curl uv && windlass-server --version && id -u",
    )
    assert told.splitlines()[-2:] == [f"windlass-server {VERSION}", "0"]
