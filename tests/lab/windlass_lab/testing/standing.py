"""The lab that stands, made sure of: tests touch nothing that the lab didn't make."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from windlass_lab import engine
from windlass_lab.choice import helms
from windlass_lab.cluster import Cluster, check_name
from windlass_lab.errors import LabError
from windlass_lab.home import Home, Mode, State, deadline
from windlass_lab.versions import Versions, load

PATIENCE = 60
"""Seconds for the API server of a cluster that stands to say that it is ready."""


@dataclass(frozen=True)
class StandingLab:
    """A lab whose engine and cluster were seen to be its own."""

    home: Home
    state: State
    versions: Versions
    environment: dict[str, str]
    engine: engine.Engine
    allowed_by_name: bool = False

    @property
    def mode(self) -> Mode:
        """Whose tools and images it uses."""
        return self.state.mode or "built"

    @property
    def made_engine(self) -> bool:
        """Whether the lab itself started the engine that answers."""
        return self.mode == "built" and self.engine.id == self.state.engine_id

    @property
    def cluster(self) -> Cluster:
        """The cluster as the lab's own code sees it."""
        return Cluster(self.home, self.versions, self.state, self.environment)

    def helms(self) -> dict[int, str]:
        """The Helm commands by major version."""
        return helms(self.environment)


def find() -> StandingLab:
    """The lab of LAB_HOME.

    Raises `LabError` when none stands, or when the engine that answers isn't the one that `make lab` worked with.
    LAB_ALLOW_ENGINE=<its name> lets another engine through: by name, never by accident.
    """
    home = Home.of_environment()
    state = State.read(home)
    if state.mode is None:
        raise LabError(f"no lab stands in {home.path}; start it with `make lab`")
    environment = home.environment(state.mode)
    found = engine.ask(environment)
    if found is None:
        raise LabError("the lab's Docker Engine doesn't answer; run `make lab`, it goes on where it stopped")
    by_name = os.environ.get("LAB_ALLOW_ENGINE") == found.name
    its_own = found.id == state.engine_id and (state.mode == "system" or found.is_of(home))
    if not its_own and not by_name:
        raise LabError(
            f"the Docker Engine that answers ({found.name!r}, {found.id}) isn't the one that the lab works with "
            f"({state.engine_name!r}, {state.engine_id}); LAB_ALLOW_ENGINE={found.name} lets tests use it all the same"
        )
    return StandingLab(home, state, load(), environment, found, by_name)


def check_cluster(lab: StandingLab) -> None:
    """Raises `LabError` when the kind cluster isn't the lab's, or isn't ready."""
    check_name(lab.state)
    cluster = lab.cluster
    if not cluster.is_ours():
        raise LabError(f"the kind cluster {cluster.name!r} isn't the one that the lab made, or is gone; run `make lab`")
    until = deadline(PATIENCE)
    while not cluster.answers(timeout=20):  # on a busy machine it may take its time, which is no reason to give up
        if time.monotonic() > until:
            raise LabError(
                f"the API server of {cluster.name!r} isn't ready after {PATIENCE} s; `make lab` mends what it can"
            )
        time.sleep(1)
