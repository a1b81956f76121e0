"""docs/image.md agrees with the contract and the Dockerfiles."""

from __future__ import annotations

from pathlib import Path

from dockerfile_text import DOCKER, lineage

from windlass_contract.health import HEALTH

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "image.md").read_text()


def test_the_numbers_of_health_are_those_of_the_contract() -> None:
    assert f"| {HEALTH.interval:g} s, {HEALTH.timeout:g} s, {HEALTH.retries} |" in PAGE
    assert f"| {HEALTH.start_period:g} s, {HEALTH.start_interval:g} s |" in PAGE
    assert f"goes on accepting for {HEALTH.drain_delay:g} s" in PAGE
    assert f"`docker run --stop-timeout {HEALTH.stop_grace_period:g}`" in PAGE


def test_the_variables_and_folders_that_the_page_names_are_those_of_the_images() -> None:
    for name in ("server", "operator"):
        words = " ".join(each.rest for each in lineage(DOCKER / f"{name}.Dockerfile", name) if each.name == "ENV")
        for variable in (word for word in words.split() if word.startswith("WINDLASS_")):
            assert variable.split("=")[0] in PAGE
            assert variable.split("=")[1] in PAGE
