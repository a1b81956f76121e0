"""The images hold this tree's own code, and not that of a build before."""

import pytest

from windlass_testing.pages import ROOT


@pytest.mark.parametrize("name", ["server", "operator"])
def test_the_trees_own_wheels_are_taken_from_no_cache(name):
    # They have the same version in every build, and by that a cache that outlives builds takes them for the same.
    text = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
    (command,) = (line for line in text.splitlines() if "uv pip install" in line)
    assert "--no-cache" in command
    assert "--find-links=/wheels" in command
