"""A host whose versions are not all there yet: one that is on its way keeps no other waiting."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from host_rig import FakeResident, Rig, play, until

from windlass_contract.failures import Failure, Gate, Reason
from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_contract.report import VersionReport, VersionState
from windlass_server.hosting import host as host_module
from windlass_server.hosting.fetcher_watch import NotFetchedError
from windlass_server.hosting.host import Host, HostSettings

DENIED = Failure(gate=Gate.FETCH, reason=Reason.FETCH_DENIED, message="it asks for credentials")


@dataclass
class Watch:
    """As the test says."""

    schemes: tuple[str, ...] = ("https",)
    missing: dict[int, NotFetchedError] = field(default_factory=dict)

    async def arrived(self, key, _planned) -> None:
        if key.version in self.missing:
            raise self.missing[key.version]


class FetchingRig(Rig):
    def __init__(self, watch: Watch) -> None:
        self.log: list[str] = []
        self.residents: dict[str, FakeResident] = {}
        self.samples_there = True
        settings = HostSettings(models=Path("/models"))
        self.host = Host(("s", "r", "00000001"), settings, self._make, self._samples, fetcher=watch)
        self.host.begin()

    def report(self, version: int) -> VersionReport:
        found = self.host.report(ready=True, draining=False, plan_conflict=False).version("m", version)
        assert found is not None
        return found


def plan() -> ServingPlan:
    versions = [
        PlannedVersion(
            version=number, digest=f"sha256:{number:064x}", weight=weight, uri="https://models.example.com/m"
        )
        for number, weight in ((1, 1000), (2, 0))
    ]
    return ServingPlan.build("s", 1, {"m": ModelPlan(versions=versions, committed=1, candidate=2)})


def test_what_is_on_its_way_is_told_and_taken_when_it_is_there(monkeypatch):
    async def scenario():
        monkeypatch.setattr(host_module, "RETRY_FIRST_SECONDS", 0.02)
        watch = Watch(missing={1: NotFetchedError(None, 0.25)})
        rig = FetchingRig(watch)
        rig.host.apply(plan())
        await rig.ends("m/2")
        await until(lambda: rig.report(1).state is VersionState.FETCHING)
        assert (rig.report(1).progress, rig.report(1).failure) == (0.25, None)
        assert rig.host.report(ready=True, draining=False, plan_conflict=False).fetches == ["https"]
        watch.missing[1] = NotFetchedError(DENIED)
        await until(lambda: rig.report(1).failure == DENIED)
        assert (rig.report(1).state, rig.report(1).progress) == (VersionState.WAITING, None)
        del watch.missing[1]
        await rig.ends("m/1")
        assert rig.report(1).state is VersionState.PREPARED
        assert rig.report(1).failure is None
        await rig.host.close()

    play(scenario)
