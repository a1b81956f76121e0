"""Who is ended when memory runs short: the choice, then the host that carries it out."""

from __future__ import annotations

import asyncio

import pytest
from host_rig import Rig, plan, play, settle, until
from test_second_answer import ask, two_versions

from windlass_contract.failures import Reason
from windlass_server.hosting.memory import MIB, Level, Room
from windlass_server.hosting.memory_watch import Choice, Footprint, MemoryWatch, Occupant, Standing, choose
from windlass_server.hosting.order import Key

SLACK = 64 * MIB
CANDIDATE, SPARE, SERVING = Standing.CANDIDATE, Standing.SPARE, Standing.SERVING


def key(version: int) -> Key:
    return Key("m", version, f"sha256:{version:064d}")


def occupant(version: int, standing: Standing, size: int, expected: int) -> Occupant:
    return Occupant(key(version), standing, Footprint(size * MIB, expected * MIB))


@pytest.mark.parametrize(
    ("case", "occupants", "ended", "own_fault"),
    [
        ("nobody is there", [], None, False),
        ("what serves and has taken nothing more is left alone", [(1, SERVING, 500, 480)], None, False),
        ("a candidate that eats", [(1, SERVING, 500, 480), (2, CANDIDATE, 900, 0)], 2, True),
        ("a candidate before all others, whoever eats", [(1, SERVING, 900, 400), (2, CANDIDATE, 50, 0)], 2, False),
        ("the larger of two candidates", [(2, CANDIDATE, 100, 0), (5, CANDIDATE, 200, 0)], 5, True),
        (
            "what serves and eats, so that the previous one can answer",
            [(2, SERVING, 900, 400), (1, SPARE, 400, 400)],
            2,
            True,
        ),
        ("the previous one that eats", [(2, SERVING, 400, 400), (1, SPARE, 900, 400)], 1, True),
        ("who has grown most of two", [(2, SERVING, 600, 400), (1, SPARE, 900, 400)], 1, True),
        ("the previous one when nobody is at fault", [(2, SERVING, 400, 400), (1, SPARE, 400, 400)], 1, False),
        ("the only one, if it eats", [(1, SERVING, 900, 400)], 1, True),
        ("not for what is within the slack", [(1, SERVING, 464, 400)], None, False),
    ],
)
def test_who_is_ended(case, occupants, ended, own_fault):
    choice = choose([occupant(*each) for each in occupants], SLACK)
    assert choice == (None if ended is None else Choice(key(ended), own_fault)), case


def standings(rig: Rig) -> dict[int, Standing]:
    return {each.key.version: each.standing for each in rig.host.occupants()}


def test_what_a_version_stands_for_follows_the_plan_and_what_it_has_shown():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await until(lambda: "m/1" in rig.residents)
        assert standings(rig) == {1: CANDIDATE}, "nobody would miss it yet"
        await rig.ends("m/1")
        assert standings(rig) == {1: SERVING}
        rig.host.apply(plan(2, {1: 900, 2: 100}, committed=1, candidate=2))
        await rig.ends("m/2")
        assert standings(rig) == {1: SERVING, 2: CANDIDATE}, "although it has a weight"
        rig.host.apply(plan(3, {2: 1000, 1: 0}, committed=2, previous=1))
        assert standings(rig) == {1: SPARE, 2: SERVING}

    play(scenario)


@pytest.mark.parametrize("own_fault", [True, False])
def test_what_took_too_much_while_it_served_gets_no_traffic_any_more_and_what_others_took_is_not_its_fault(own_fault):
    async def scenario():
        rig = await two_versions()
        await rig.host.evict(key_of(rig, 2), "it took memory until 100 MiB were left", own_fault=own_fault)
        assert rig.residents["m/2"].evicted == ("it took memory until 100 MiB were left", own_fault)
        report = rig.host.report(ready=True, draining=False, plan_conflict=False)
        breaker = report.version("m", 2).breaker
        assert report.models["m"].breaker_open is own_fault
        assert (breaker.reason if breaker else None) == (Reason.WONT_FIT if own_fault else None)
        assert await ask(rig) == (([1.0], 1) if own_fault else ([2.0], 2))
        assert report.version("m", 1).breaker is None

    play(scenario)


def test_without_another_version_to_have_its_traffic_no_breaker_opens():
    async def scenario():
        rig = Rig()
        rig.host.apply(plan(1, {1: 1000}, committed=1))
        await rig.ends("m/1")
        await rig.host.evict(key_of(rig, 1), "it took memory", own_fault=True)
        assert not rig.host.open_breakers
        assert rig.residents["m/1"].evicted

    play(scenario)


def key_of(rig: Rig, version: int) -> Key:
    return next(key for key in rig.host.slots if key.version == version)


class ShortRoom(Room):
    """Has as much left as the test says."""

    def __init__(self, left: int) -> None:
        super().__init__(256 * MIB)
        self.left = left

    def level(self) -> Level:
        return Level(1000 * MIB, 1000 * MIB - self.left, 0, "the test")


class Evicted:
    """A host whose one candidate gives its memory back when it is ended."""

    def __init__(self, room: ShortRoom) -> None:
        self.room = room
        self.whys: list[str] = []
        self.faults: list[bool] = []

    def occupants(self) -> list[Occupant]:
        return [] if self.whys else [occupant(2, CANDIDATE, 500, 0)]

    async def evict(self, key: Key, why: str, *, own_fault: bool) -> None:
        self.whys.append(f"{key}: {why}")
        self.faults.append(own_fault)
        self.room.left = 600 * MIB


@pytest.mark.parametrize(("left", "acts"), [(128 * MIB, False), (127 * MIB, True)])
def test_it_acts_below_half_of_the_reserve_and_says_what_was_left(left, acts):
    async def scenario():
        room = ShortRoom(left)
        host = Evicted(room)
        watching = asyncio.create_task(MemoryWatch(room, host).run())
        await settle()
        watching.cancel()
        assert host.whys == (["m/2: it took memory until 127 MiB of 1000 MiB were left (the test)"] if acts else [])
        assert host.faults == ([True] if acts else [])

    play(scenario)
