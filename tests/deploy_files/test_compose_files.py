"""What the Compose and Swarm files say agrees with the contract, with each other and with their READMEs."""

from __future__ import annotations

import re
import stat
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from windlass_contract.control import CONTROL_PORT, SERVER_PORT
from windlass_contract.health import HEALTH
from windlass_server.fetching.settings import FetcherSettings
from windlass_server.settings import Settings
from windlass_testing.pages import ROOT

COMPONENTS = ROOT / "docker" / "compose"
NGINX = COMPONENTS / "front" / "nginx.conf"


class Loader(yaml.SafeLoader):
    """Compose's own tags are left out of account."""


Loader.add_multi_constructor("!", lambda loader, _tag, node: _plain(loader, node))


def _plain(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return None


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.load(path.read_text(), Loader)
    return document


def services() -> dict[str, dict[str, Any]]:
    """Of all components."""
    return {
        name: service
        for file in sorted(COMPONENTS.glob("*/compose.yaml"))
        for name, service in load(file)["services"].items()
    }


def seconds(text: str) -> float:
    """As Compose writes a duration here."""
    return float(text.removesuffix("s"))


SERVICES = services()
WRITERS = {("windlass", "/model-versions"), ("fetcher", "/models")}
"""Services that write to a folder of the machine: decisions, and models."""
SWARM = load(ROOT / "docker" / "swarm" / "swarm.yaml")


def test_the_health_check_of_the_replicas_has_the_numbers_of_the_contract() -> None:
    server = SERVICES["server"]
    check = server["healthcheck"]
    assert "test" not in check, "what is run comes with the image"
    assert {key: seconds(value) for key, value in check.items() if key != "retries"} == {
        "interval": HEALTH.interval,
        "timeout": HEALTH.timeout,
        "start_period": HEALTH.start_period,
        "start_interval": HEALTH.start_interval,
    }
    assert check["retries"] == HEALTH.retries
    assert seconds(server["stop_grace_period"]) == HEALTH.stop_grace_period


def test_a_swarm_watches_a_new_task_until_it_could_be_found_unhealthy() -> None:
    for name in ("update_config", "rollback_config"):
        policy = SWARM["services"]["server"]["deploy"][name]
        assert seconds(policy["monitor"]) >= HEALTH.interval * HEALTH.retries + HEALTH.timeout
        assert (policy["order"], policy["parallelism"]) == ("start-first", 1)
    assert SWARM["services"]["server"]["deploy"]["update_config"]["failure_action"] == "rollback"


def test_a_swarm_gives_the_front_each_replicas_address() -> None:
    assert {name: service["deploy"]["endpoint_mode"] for name, service in SWARM["services"].items()} == dict.fromkeys(
        ("server", "operator", "postgres", "front"), "dnsrr"
    )


def test_the_images_are_of_the_packages_version() -> None:
    for service, package in (
        ("server", "server"),
        ("windlass", "server"),
        ("operator", "operator"),
        ("fetcher", "server"),
    ):
        assert SERVICES[service]["image"].endswith(f":${{WINDLASS_VERSION:-{version(f'windlass-{package}')}}}")


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("privileged") is None
    for mount in service["volumes"]:
        if mount["type"] == "bind":
            assert mount["bind"]["create_host_path"] is False, "a folder that is missing is an error, not root's"
            assert mount.get("read_only") is True or (name, mount["target"]) in WRITERS


def test_nobody_waits_for_anybodys_health() -> None:
    waited_for = {
        (name, on): how["condition"]
        for name, each in SERVICES.items()
        for on, how in each.get("depends_on", {}).items()
    }
    assert set(waited_for.values()) == {"service_started"}
    assert not [name for name, _ in waited_for if name == "operator"], "the operator waits for nobody"


def test_networks_separate_who_has_nothing_to_say_to_each_other() -> None:
    networks = {name: set(each["networks"]) for name, each in SERVICES.items() if "networks" in each}
    assert networks == {
        "front": {"edge", "front"},
        "server": {"front", "control", "back"},
        "operator": {"control"},
        "postgres": {"back"},
        "fetcher": {"edge", "control"},
    }
    root = load(ROOT / "docker-compose.yml")["networks"]
    assert {name for name, each in root.items() if each and each["internal"]} == {"front", "control", "back"}
    assert [name for name, each in SERVICES.items() if "ports" in each] == ["front"]


def test_secrets_are_files_and_each_service_gets_only_its_own() -> None:
    given = {
        name: [each["source"] if isinstance(each, dict) else each for each in service.get("secrets", [])]
        for name, service in SERVICES.items()
    }
    assert given == {
        "server": ["control-token", "predictions-url"],
        "operator": ["control-token"],
        "postgres": ["postgres-password"],
        "front": [],
        "windlass": [],
        "fetcher": ["control-token"],
    }


def test_replicas_are_told_where_the_operator_is_and_to_refuse_until_they_are_ready() -> None:
    environment = SERVICES["server"]["environment"]
    assert environment["WINDLASS_OPERATOR"] == f"http://operator:{CONTROL_PORT}"
    known = {f"WINDLASS_{name.upper()}" for name in Settings.model_fields}
    assert set(environment) <= known
    assert environment["WINDLASS_REFUSE_UNTIL_READY"] == "true"


def test_the_fetcher_is_set_up_by_what_it_knows_and_only_when_asked_for() -> None:
    service = SERVICES["fetcher"]
    assert service["profiles"] == ["fetcher"]
    known = {f"WINDLASS_{name.upper()}" for name in FetcherSettings.model_fields}
    assert set(service["environment"]) <= known
    assert service["environment"]["WINDLASS_OPERATOR"] == f"http://operator:{CONTROL_PORT}"


def test_the_front_asks_for_addresses_each_second_and_never_sends_a_prediction_twice() -> None:
    text = re.sub(r"#.*", "", NGINX.read_text())
    assert re.search(r"resolver 127\.0\.0\.11 valid=1s ", text)
    assert HEALTH.drain_delay > 1, "a replica that stops takes connections for longer than its address is remembered"
    assert re.findall(r"proxy_next_upstream ([^;]*);", text) == ["error timeout"]
    assert f"http://$replicas:{SERVER_PORT}" in text
    assert not re.search(r"^\s*upstream ", text, re.MULTILINE), "`upstream … resolve` needs nginx 1.27.3"


def test_the_front_takes_what_a_replica_takes_and_waits_longer() -> None:
    text = NGINX.read_text()
    limit = Settings.model_fields["max_body_bytes"].default
    assert f"client_max_body_size {limit // 1024**2}m;" in text
    waits = re.search(r"proxy_read_timeout (\d+)s", text)
    assert waits
    assert float(waits[1]) > Settings.model_fields["request_deadline"].default


def test_the_front_stores_no_bodies_and_what_it_keeps_of_them_fits_into_its_memory() -> None:
    front, text = SERVICES["front"], re.sub(r"#.*", "", NGINX.read_text())

    def number(pattern: str) -> int:
        found = re.search(pattern, text)
        assert found, pattern
        return int(found[1])

    assert re.search(r"proxy_request_buffering off;", text)
    assert re.search(r"proxy_http_version 1\.1;", text), "else a chunked body is stored all the same"
    (mount,) = (each for each in front["volumes"] if each["type"] == "tmpfs")
    assert mount["tmpfs"]["size"] <= 1024**2
    kept = number(r"client_body_buffer_size (\d+)k;") * 1024
    kept *= number(r"worker_processes (\d+);") * number(r"worker_connections (\d+);")
    limit = re.fullmatch(r"\$\{WINDLASS_FRONT_MEMORY:-(\d+)m\}", front["deploy"]["resources"]["limits"]["memory"])
    assert limit
    assert kept <= int(limit[1]) * 1024**2 / 4


def test_each_component_has_a_readme_and_is_included() -> None:
    folders = sorted(path.name for path in COMPONENTS.iterdir() if path.is_dir())
    included = [Path(each["path"]).parent.name for each in load(ROOT / "docker-compose.yml")["include"]]
    assert sorted(included) == folders
    for folder in folders:
        assert (COMPONENTS / folder / "README.md").read_text().startswith("# ")
        assert f"[{folder}/]({folder})" in (COMPONENTS / "README.md").read_text()


def test_every_variable_of_the_files_is_in_the_docs() -> None:
    files = [ROOT / "docker-compose.yml", *COMPONENTS.glob("*/compose.yaml")]
    used = {name for file in files for name in re.findall(r"\$\{([A-Z_]+):-", file.read_text())}
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "compose.md").read_text(), re.MULTILINE))
    assert used == listed


def test_secrets_are_made_once_and_reached_by_their_owner_alone(tmp_path: Path) -> None:
    script = tmp_path / "docker" / "make-secrets"
    script.parent.mkdir()
    script.write_bytes((ROOT / "docker" / "make-secrets").read_bytes())
    first = subprocess.run(["sh", str(script)], check=True, capture_output=True, text=True, timeout=30).stdout
    folder = tmp_path / "secrets"
    made = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    assert set(made) == {"control-token", "postgres-password", "predictions-url"}
    assert re.fullmatch(r"[0-9a-f]{64}", made["control-token"])
    assert made["predictions-url"] == f"postgresql://windlass:{made['postgres-password']}@postgres/windlass"
    assert made["control-token"] != made["postgres-password"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in made} == {0o644}
    assert list((folder / "fetcher").iterdir()) == [], "credentials for a fetcher are the user's to put there"
    assert not [value for value in made.values() if value in first], "no secret is shown"
    (folder / "control-token").unlink()
    subprocess.run(["sh", str(script)], check=True, capture_output=True, timeout=30)
    again = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    assert again["postgres-password"] == made["postgres-password"]
    assert again["control-token"] != made["control-token"]


def test_development_runs_the_server_as_the_user_whose_state_it_is_in_an_image_that_starts_a_shell() -> None:
    server = load(ROOT / "docker-compose.dev.yml")["services"]["server"]
    assert server["build"]["target"] == "debug"
    assert server["command"] == ["windlass-server"]
    assert server["user"] == "65532:65532", "as the images have it"
