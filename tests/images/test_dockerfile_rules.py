"""The Dockerfiles keep rules of ours beside hadolint's, which `make lint` checks, and agree with the contract."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from dockerfile_text import DOCKER, DOCKERFILES, lineage, stages

from windlass_contract.control import CONTROL_PORT, OPERATOR_METRICS_PORT, SERVER_METRICS_PORT, SERVER_PORT
from windlass_contract.health import HEALTH

SERVER, OPERATOR = DOCKER / "server.Dockerfile", DOCKER / "operator.Dockerfile"
SHIPPED = [(SERVER, "server"), (SERVER, "litert"), (OPERATOR, "operator")]
every_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
every_image = pytest.mark.parametrize(("path", "target"), SHIPPED, ids=lambda value: str(value).rpartition("/")[2])


def _shell_lines(path: Path) -> list[list[str]]:
    """The commands that RUN runs, each as its words."""
    found = []
    for stage in stages(path).values():
        for run in stage.all("RUN"):
            if run.as_list is not None:
                found.append(run.as_list)
            else:
                found += [shlex.split(command) for command in re.split(r"&&|;|\|\|", run.rest)]
    return found


def test_there_is_a_dockerfile_for_each_part_that_is_deployed() -> None:
    assert [path.stem for path in DOCKERFILES] == ["operator", "server"]


@every_image
def test_healthcheck_has_the_numbers_of_the_contract(path: Path, target: str) -> None:
    checks = [each for each in lineage(path, target) if each.name == "HEALTHCHECK"]
    assert len(checks) == 1
    given = dict(option.removeprefix("--").split("=") for option in checks[0].options)
    assert given == {
        "interval": f"{HEALTH.interval:g}s",
        "timeout": f"{HEALTH.timeout:g}s",
        "start-period": f"{HEALTH.start_period:g}s",
        "start-interval": f"{HEALTH.start_interval:g}s",
        "retries": str(HEALTH.retries),
    }
    program = "windlass-operator" if path == OPERATOR else "windlass-server"
    assert checks[0].rest == f'CMD ["windlass-health", "{program}"]'


@every_image
def test_an_image_runs_as_a_user_by_number_with_an_init_in_exec_form(path: Path, target: str) -> None:
    made_of = lineage(path, target)
    last = {each.name: each for each in made_of}
    assert last["USER"].rest == "65532:65532"
    assert last["STOPSIGNAL"].rest == "SIGTERM"
    assert last["ENTRYPOINT"].as_list is not None
    assert last["ENTRYPOINT"].as_list[0] == "/usr/bin/tini"
    assert last["WORKDIR"].rest.startswith("/")
    assert "CMD" not in last
    ports = [SERVER_PORT, SERVER_METRICS_PORT] if path == SERVER else [CONTROL_PORT, OPERATOR_METRICS_PORT]
    assert last["EXPOSE"].rest.split() == [f"{port}/tcp" for port in ports]


@every_image
def test_an_image_says_what_it_is_and_what_it_was_made_of(path: Path, target: str) -> None:
    labels = " ".join(each.rest for each in lineage(path, target) if each.name == "LABEL")
    for label in ("title", "description", "version", "revision", "created", "base.name"):
        assert f"org.opencontainers.image.{label}=" in labels


@every_image
def test_what_is_built_elsewhere_is_copied_and_belongs_to_root(path: Path, target: str) -> None:
    known = stages(path)
    for copy in (each for each in lineage(path, target) if each.name == "COPY"):
        source = next((option for option in copy.options if option.startswith("--from=")), "")
        assert not source or source.removeprefix("--from=") in known
        assert not any(option.startswith("--chown") for option in copy.options), "the server could rewrite its own code"


@every_image
def test_the_last_stages_run_nothing_by_a_shell(path: Path, target: str) -> None:
    for run in (each for each in lineage(path, target) if each.name == "RUN"):
        assert run.as_list is not None, run.rest


@every_dockerfile
def test_the_base_is_an_argument_with_a_version(path: Path) -> None:
    known = stages(path)
    (base,) = known[""].all("ARG")
    assert re.fullmatch(r"BASE=python:3\.\d+-slim-\w+", base.rest)
    for stage in list(known.values())[1:]:
        assert stage.base == "${BASE}" or stage.base in known


@every_dockerfile
def test_instructions_that_are_obsolete_or_hide_something_are_not_used(path: Path) -> None:
    for stage in stages(path).values():
        for name in ("ADD", "MAINTAINER", "ONBUILD", "VOLUME", "SHELL"):
            assert not stage.all(name), f"{name} in {stage.name}"
        for name in ("CMD", "ENTRYPOINT", "HEALTHCHECK"):
            assert len(stage.all(name)) <= 1
        assert all(each.as_list is not None for name in ("CMD", "ENTRYPOINT") for each in stage.all(name))


@every_dockerfile
def test_packages_are_installed_with_versions_and_sums(path: Path) -> None:
    for command in _shell_lines(path):
        if command[:2] == ["apt-get", "install"]:
            assert {"-y", "--no-install-recommends"} <= set(command)
            assert all("=" in word for word in command[2:] if not word.startswith("-")), command
        elif command[0] in {"apt", "sudo", "curl", "wget", "pip", "cd", "ssh", "su"}:
            pytest.fail(f"{path.name} runs {command}")
        elif "pip" in command and ("sync" in command or "install" in command):
            assert "--require-hashes" in command or "--no-index" in command, command


@every_dockerfile
def test_no_frontend_has_to_be_pulled_and_a_finding_of_the_build_check_is_an_error(path: Path) -> None:
    assert path.read_text().startswith("# check=error=true\n")
    assert "# syntax" not in path.read_text()


@every_dockerfile
def test_nothing_is_in_the_context_but_what_is_named(path: Path) -> None:
    rules = [line for line in Path(f"{path}.dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    for rule in rules:
        if rule.startswith("!"):
            assert (DOCKER.parent / rule[1:]).exists(), f"{rule} names nothing"
    assert rules[-3:] == ["**/__pycache__", "**/*.py[cod]", "**/.*"]


@every_dockerfile
def test_all_of_the_context_is_copied_so_that_skaffold_knows_what_an_image_is_made_of(path: Path) -> None:
    """It reads COPY alone: what is only mounted makes no new tag, and an edit of it no new image."""
    rules = Path(f"{path}.dockerignore").read_text().splitlines()
    copied = [
        source
        for stage in stages(path).values()
        for copy in stage.all("COPY")
        if not any(option.startswith("--from=") for option in copy.options)
        for source in copy.rest.split()[:-1]
    ]
    for name in (rule[1:] for rule in rules if rule.startswith("!")):
        assert any(f"{name}/".startswith(f"{source}/") for source in copied), f"{name} isn't copied"


def test_the_variables_that_the_images_set_are_settings() -> None:
    from windlass_operator.settings import ENV_PREFIX as OPERATOR_PREFIX
    from windlass_operator.settings import Settings as OperatorSettings
    from windlass_server.settings import ENV_PREFIX, Settings

    for path, target, prefix, known in (
        (SERVER, "server", ENV_PREFIX, Settings.model_fields),
        (OPERATOR, "operator", OPERATOR_PREFIX, OperatorSettings.model_fields),
    ):
        words = " ".join(each.rest for each in lineage(path, target) if each.name == "ENV").split()
        names = [word.split("=")[0] for word in words if word.startswith("WINDLASS_")]
        assert names
        for name in names:
            assert name.removeprefix(prefix).lower() in known
