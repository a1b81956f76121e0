"""The pytest plugin for tests on the lab. Mark such tests with `lab`.

`docker_engine`, `kind_cluster` and `load_image` last for the session; `namespace`, `kubectl`, `helm` (a test that
takes it runs with Helm 3 and with Helm 4), `compose_project` and `swarm` are new for each test.

Where no lab stands, such tests are left out and the summary says so in red; with CI or LAB_REQUIRED set they fail
instead. When a test fails, what its namespace, project or stacks showed is kept below the lab's folder, and the report
says where.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from windlass_lab.errors import LabError
from windlass_lab.extras import Extras
from windlass_lab.home import Home
from windlass_lab.testing.docker import ComposeProject, DockerEngine, Swarm, start_swarm
from windlass_lab.testing.kubernetes import Helm, KindCluster, Namespace
from windlass_lab.testing.registry import Registry, start_registry
from windlass_lab.testing.standing import StandingLab, check_cluster, find

Collector = Callable[[Path], None]
COLLECTORS = pytest.StashKey[list[Collector]]()
"""On a test: what to keep when it fails."""

DESELECTED = pytest.StashKey[dict[str, int]]()
"""On the configuration: how many lab tests this run was told to leave out, by what runs them."""

HANGS_AFTER = 600
"""Seconds; also a first build of an image and its way into the nodes has to fit."""

NEEDS = "needs the lab: "
"""How the reason of a left out test begins."""


def _required() -> bool:
    return any(os.environ.get(name, "") not in ("", "0", "false") for name in ("CI", "LAB_REQUIRED"))


def _leave_out(error: LabError) -> None:
    if _required():
        pytest.fail(f"this run has to have the lab: {error}", pytrace=False)
    pytest.skip(NEEDS + str(error))


# --- for the session -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def standing_lab() -> StandingLab:
    """The lab that stands on this machine, with an engine seen to be its own."""
    try:
        return find()
    except LabError as error:
        _leave_out(error)
        raise


@pytest.fixture(scope="session")
def docker_engine(standing_lab: StandingLab) -> DockerEngine:
    """The lab's Docker Engine."""
    return DockerEngine(standing_lab)


@pytest.fixture(scope="session")
def kind_cluster(standing_lab: StandingLab, docker_engine: DockerEngine) -> KindCluster:
    """The lab's kind cluster, ready."""
    try:
        check_cluster(standing_lab)
    except LabError as error:
        _leave_out(error)
        raise
    return KindCluster(standing_lab, docker_engine)


@pytest.fixture(scope="session")
def load_image(kind_cluster: KindCluster) -> Callable[[str], None]:
    """Puts an image of the engine into all nodes: `load_image("windlass/server:e2e")`."""
    return kind_cluster.load_image


@pytest.fixture(scope="session")
def official_image(standing_lab: StandingLab) -> Callable[[str], str]:
    """Puts another project's image into the engine, once: `official_image("postgres")` gives "postgres:16"."""
    return Extras(standing_lab.home, standing_lab.versions, standing_lab.mode).image


@pytest.fixture(scope="session")
def lab_command(standing_lab: StandingLab) -> Callable[[str], Path]:
    """A command that only some tests need, built when first asked for: `lab_command("kubeconform")` gives its path."""
    return Extras(standing_lab.home, standing_lab.versions, standing_lab.mode).command


@pytest.fixture(scope="session")
def registry(docker_engine: DockerEngine, official_image: Callable[[str], str]) -> Iterator[Registry]:
    """An image registry on a port of loopback, empty, gone after the session."""
    with start_registry(docker_engine, official_image("registry")) as started:
        yield started


@pytest.fixture(scope="session")
def _swarm(docker_engine: DockerEngine) -> Iterator[Swarm]:
    try:
        swarm = start_swarm(docker_engine)
    except LabError as error:
        _leave_out(error)
        raise
    yield swarm
    swarm.leave()


# --- for each test -------------------------------------------------------------------------------------------


def _short_name(request: pytest.FixtureRequest) -> str:
    """A name for what belongs to one test: of the test and of chance, good for Kubernetes, Compose and folders."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))[:40].strip("-")
    return f"{words}-{secrets.token_hex(3)}"


def _keep_on_failure(request: pytest.FixtureRequest, collector: Collector) -> None:
    request.node.stash.setdefault(COLLECTORS, []).append(collector)


@pytest.fixture
def namespace(kind_cluster: KindCluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of the test's own; its Pods' logs, events and descriptions are kept when the test fails."""
    space = Namespace(kind_cluster, _short_name(request))
    space.create()
    _keep_on_failure(request, space.evidence)
    yield space
    space.delete()


@pytest.fixture
def kubectl(namespace: Namespace) -> Callable[..., str]:
    """`kubectl --namespace <the test's> …`: gives its standard output, raises `CommandError`."""
    return namespace.kubectl


@pytest.fixture(params=[3, 4], ids=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest, standing_lab: StandingLab, namespace: Namespace) -> Helm:
    """Helm in the test's namespace, once of each major version."""
    command = standing_lab.helms().get(request.param)
    if command is None:
        _leave_out(
            LabError(
                f"no Helm {request.param} on the PATH, and the lab uses the system's; install it as helm{request.param}"
            )
        )
        raise AssertionError
    return Helm(command, request.param, namespace)


@pytest.fixture
def swarm(_swarm: Swarm, request: pytest.FixtureRequest) -> Iterator[Swarm]:
    """The lab's engine as a Swarm of one node; the test's stacks are removed after it."""
    _keep_on_failure(request, _swarm.evidence)
    yield _swarm
    _swarm.remove_stacks()


@pytest.fixture
def compose_project(
    docker_engine: DockerEngine, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[ComposeProject]:
    """A Compose project in an empty folder; taken down after the test, with its volumes."""
    folder = tmp_path / "compose"
    folder.mkdir()
    project = ComposeProject(docker_engine, _short_name(request), folder)
    _keep_on_failure(request, project.evidence)
    yield project
    if any(folder.iterdir()):
        project.down()


# --- failures, and what was left out --------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keeps what the lab shows of a test that has just failed, before its fixtures take it away."""
    report = yield
    if report.failed and call.when in ("setup", "call"):
        collectors = item.stash.get(COLLECTORS, [])
        if collectors:
            name = re.sub(r"[^A-Za-z0-9_.-]+", "-", item.name)[:80]
            folder = Home.of_environment().path / "failures" / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
            folder.mkdir(parents=True, exist_ok=True)
            for collector in collectors:
                collector(folder)
            report.sections.append(("kept for you", f"logs, events and descriptions: {folder}"))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives tests on the lab more time before they count as hanging: they build images and wait for Pods."""
    for item in items:
        if item.get_closest_marker("lab") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(HANGS_AFTER))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Counts the lab's tests that the run was told to leave out."""
    for item in items:
        if item.get_closest_marker("lab"):
            target = "make e2e"
            if item.get_closest_marker("soak"):
                target = "make soak-lab"
            elif item.get_closest_marker("unproven"):
                target = "make e2e-unproven"
            elif item.get_closest_marker("alone"):
                target = "make e2e-alone"
            counts = item.config.stash.setdefault(DESELECTED, {})
            counts[target] = counts.get(target, 0) + 1
        elif item.get_closest_marker("unproven"):
            counts = item.config.stash.setdefault(DESELECTED, {})
            counts["make test-unproven"] = counts.get("make test-unproven", 0) + 1
        elif item.get_closest_marker("alone") and not item.get_closest_marker("soak"):
            counts = item.config.stash.setdefault(DESELECTED, {})
            counts["make test-alone"] = counts.get("make test-alone", 0) + 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist, which collects, hands its count to the one that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["windlass_lab_deselected"] = session.config.stash.get(DESELECTED, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes that count; each of those processes has counted all tests."""
    counts = getattr(node, "workeroutput", {}).get("windlass_lab_deselected", {})
    node.config.stash.setdefault(DESELECTED, {}).update(counts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says loudly what was left out because it needs the lab."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if NEEDS in reason:
            told = reason.split(NEEDS, 1)[1]
            reasons[told] = reasons.get(told, 0) + 1
    for target, count in config.stash.get(DESELECTED, {}).items():
        reasons[f"they run with `{target}`"] = count
    if reasons:
        terminalreporter.section(
            "LEFT OUT: tests that need the engine and the cluster, are unproven, or measure time", red=True, bold=True
        )
        for told, count in reasons.items():
            terminalreporter.line(f"{count} {'test' if count == 1 else 'tests'} NOT run: {told}", red=True)
