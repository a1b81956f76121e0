"""One server's passes with outcomes made by hand: what is told to whom, and only when."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from windlass_contract.model_version import ModelVersionStatus
from windlass_contract.plan import ServingPlan
from windlass_contract.record import ModelRecord, PodTemplate, RolloutRecordSet, ServerState
from windlass_contract.report import ServingReport
from windlass_operator.control.hub import Hub, NotActingError
from windlass_operator.directory_driver.events import EventLog
from windlass_operator.directory_driver.lock import StateLock
from windlass_operator.directory_driver.replicas import ReplicaFiles
from windlass_operator.directory_driver.store import FolderStore, StateStore
from windlass_operator.directory_driver.telling import FolderPeople
from windlass_operator.driving.durable import HoldLostError, StoreError
from windlass_operator.driving.people import stalled
from windlass_operator.driving.server_worker import REST_SECONDS, ServerWorker, Tools
from windlass_operator.driving.view import ServerView
from windlass_operator.engine.interface import Event, Observation, Outcome
from windlass_operator.metrics import Metrics
from windlass_testing import connections_closed


def plan(epoch: int) -> ServingPlan:
    return ServingPlan.build("cats", epoch, {})


def record(seconds: float = 0.0) -> RolloutRecordSet:
    return RolloutRecordSet(server="cats", models={"m": ModelRecord(previous_seconds=seconds)})


class World:
    """A worker with a real store and hub; the engine is whatever `decide` says."""

    def __init__(self, folder: Path) -> None:
        (folder / "servers").mkdir()
        self.lock = StateLock(folder / "lock")
        assert self.lock.try_acquire()
        self.store = StateStore(folder / "servers", self.lock)
        self.hub = Hub()
        self.hub.act()
        self.hub.open("cats")
        self.now = 100.0
        self.seen: list[Observation] = []
        self.decide: Callable[[Observation], Outcome] = lambda seen: Outcome(seen.record, seen.plan, write=False)
        self.shown: list[tuple[int | None, Mapping[str, ModelVersionStatus]]] = []
        self.restarted: list[tuple[int | None, PodTemplate]] = []
        """With the epoch that subscribers knew of by then."""
        self.events = EventLog(folder / "events.jsonl")
        self.worker = ServerWorker(
            "cats",
            Tools(
                store=FolderStore(self.store),
                hub=self.hub,
                reconcile=self._reconcile,
                view=lambda _: ServerView(),
                people=FolderPeople(ReplicaFiles(folder, lambda: self.now), self.events, self._show, asyncio.Lock()),
                metrics=Metrics("test"),
                holds=self.lock.holds,
                acting_since=90.0,
                restart=self._restart,
                clock=lambda: self.now,
            ),
        )

    def _reconcile(self, observation: Observation) -> Outcome:
        self.seen.append(observation)
        return self.decide(observation)

    async def _show(self, server: str, statuses: Mapping[str, ModelVersionStatus]) -> None:
        assert server == "cats"
        told = self.hub._channels["cats"].plan
        self.shown.append((told.epoch if told else None, statuses))

    async def _restart(self, server: str, template: PodTemplate) -> None:
        assert server == "cats"
        told = self.hub._channels["cats"].plan
        self.restarted.append((told.epoch if told else None, template))

    async def reconcile(self) -> None:
        """One pass, and what is told of it."""
        await self.worker.reconcile()
        await self.worker.tell()

    async def told(self) -> ServingPlan | None:
        """What a subscriber without a plan is answered; `NotActingError` when nothing."""
        async with asyncio.timeout(30):
            return await self.hub.next_plan("cats", None, None)


def play(folder: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def body() -> None:
        await scenario(World(folder))

    connections_closed.run(body())


def writing(epoch: int, **fields: Any) -> Callable[[Observation], Outcome]:
    return lambda _: Outcome(record(), plan(epoch), write=True, **fields)


def test_a_plan_is_told_after_its_write_then_statuses_then_events(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.decide = writing(
            1, statuses={"m-1": ModelVersionStatus()}, events=(Event("m-1", "Normal", "Committed", "it serves"),)
        )
        await world.reconcile()
        assert await world.told() == plan(1)
        assert world.store.read("cats").state == ServerState(server="cats", plan=plan(1), record=record())
        assert world.shown == [(1, {"m-1": ModelVersionStatus()})], "subscribers knew it when the statuses came"
        assert "it serves" in world.events.path.read_text()

    play(tmp_path, scenario)


def test_the_template_is_changed_after_the_plan_was_written_and_told(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        template = PodTemplate(revision="m-2-1")
        world.decide = writing(1, template=template)
        await world.reconcile()
        assert world.restarted == [(1, template)]
        world.decide = writing(2)
        await world.reconcile()
        assert world.restarted == [(1, template)], "nothing more is asked for"

    play(tmp_path, scenario)


def test_what_stalls_is_told_as_an_event_once(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.decide = lambda _: Outcome(None, None, write=False, statuses={"m-1": ModelVersionStatus()})
        await world.reconcile()
        stall = stalled(ModelVersionStatus(), "FileMissing", "weights.bin is missing")
        world.decide = lambda _: Outcome(None, None, write=False, statuses={"m-1": stall})
        await world.reconcile()
        await world.reconcile()
        assert world.events.path.read_text().count("weights.bin is missing") == 1

    play(tmp_path, scenario)


def test_nothing_is_told_of_a_plan_whose_write_failed(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.decide = writing(1)
        await world.reconcile()
        next_outcome = writing(2, events=(Event("m-1", "Normal", "Committed", "too early"),))

        def just_before_the_write(seen: Observation) -> Outcome:
            world.store.path("cats").rename(tmp_path / "kept")
            world.store.path("cats").mkdir()
            return next_outcome(seen)

        world.decide = just_before_the_write
        with pytest.raises(StoreError):
            await world.reconcile()
        assert (await world.told()) == plan(1)
        assert not world.events.path.exists()
        world.store.path("cats").rmdir()
        (tmp_path / "kept").rename(world.store.path("cats"))
        world.decide = next_outcome
        await world.reconcile()
        assert await world.told() == plan(2)

    play(tmp_path, scenario)


def test_who_lost_a_race_reads_and_computes_again(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        other = ServerState(server="cats", plan=plan(7), record=record(5))

        def overtaken(seen: Observation) -> Outcome:
            if len(world.seen) == 1:
                world.store.write("cats", other, "")
            return Outcome(record(), plan((seen.plan or plan(0)).epoch + 1), write=True)

        world.decide = overtaken
        await world.reconcile()
        assert [seen.plan for seen in world.seen] == [None, plan(7)]
        assert world.seen[1].record == other.record
        assert await world.told() == plan(8)

    play(tmp_path, scenario)


def test_clocks_run_in_memory_between_writes(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.decide = writing(1)
        await world.reconcile()
        world.decide = lambda seen: Outcome(record(seen.elapsed), seen.plan, write=False)
        world.now += 3
        await world.reconcile()
        world.now += 4
        await world.reconcile()
        assert [(seen.elapsed, seen.uptime) for seen in world.seen] == [(0, 10), (3, 13), (4, 17)]
        assert world.seen[2].record == record(3)
        stored = world.store.read("cats").state
        assert stored is not None
        assert stored.record == record()

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("fields", "quiet"), [({}, True), ({"revisit_after": 5.0}, False), ({"renewed": ("m",)}, False)]
)
def test_while_a_clock_runs_replicas_are_heard_each_second(tmp_path: Path, fields: dict[str, Any], quiet: bool) -> None:
    async def scenario(world: World) -> None:
        world.decide = writing(1, **fields)
        await world.reconcile()
        assert world.hub._channels["cats"].quiet is quiet

    play(tmp_path, scenario)


def test_while_it_gathers_nothing_is_told_and_the_statuses_stay(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.decide = lambda seen: Outcome(seen.record, seen.plan, write=False, gathering=True, revisit_after=0.5)
        await world.reconcile()
        with pytest.raises(NotActingError, match="just started"):
            await world.told()
        assert world.shown == []
        world.decide = lambda _: Outcome(None, None, write=False)
        await world.reconcile()
        assert await asyncio.wait_for(world.hub.next_plan("cats", 1, plan(1).digest), 30) is None

    play(tmp_path, scenario)


def test_an_object_put_back_by_somebody_is_read_anew(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.decide = writing(1)
        await world.reconcile()
        old = world.store.path("cats").read_bytes()
        world.decide = writing(2)
        await world.reconcile()
        world.store.path("cats").write_bytes(old)
        world.decide = lambda seen: Outcome(seen.record, seen.plan, write=False)
        await world.reconcile()
        assert world.seen[-1].plan == plan(1)

    play(tmp_path, scenario)


def test_without_the_lock_it_stops(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.lock.release()
        with pytest.raises(HoldLostError):
            await world.reconcile()
        assert world.seen == []

    play(tmp_path, scenario)


def test_a_fault_in_a_pass_is_logged_and_the_next_pass_comes(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        stopping = asyncio.Event()

        def decide(seen: Observation) -> Outcome:
            if len(world.seen) == 1:
                raise ZeroDivisionError
            stopping.set()
            return Outcome(None, None, write=False)

        world.decide = decide
        async with asyncio.timeout(30):
            await world.worker.run(stopping)
        assert len(world.seen) == 2

    play(tmp_path, scenario)


def test_a_disk_that_is_slow_for_people_delays_no_pass_and_a_stop_loses_nothing(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        stopping, disk, fifth = asyncio.Event(), asyncio.Event(), asyncio.Event()
        show = world._show

        async def slowly(server: str, statuses: Mapping[str, ModelVersionStatus]) -> None:
            await disk.wait()
            await show(server, statuses)

        world.worker._tools = dataclasses.replace(
            world.worker._tools,
            people=FolderPeople(ReplicaFiles(tmp_path, lambda: world.now), world.events, slowly, asyncio.Lock()),
        )

        def decide(_: Observation) -> Outcome:
            epoch = len(world.seen)
            if epoch == 5:
                fifth.set()
            return Outcome(
                record(),
                plan(epoch),
                write=True,
                statuses={"m-1": ModelVersionStatus(phase=f"of epoch {epoch}")},
                events=(Event("m-1", "Normal", "Committed", f"epoch {epoch}"),),
                revisit_after=0.0,
            )

        world.decide = decide
        running = asyncio.create_task(world.worker.run(stopping))
        async with asyncio.timeout(30):
            await fifth.wait()
            plan_told = await world.told()
            assert plan_told is not None
            assert plan_told.epoch >= 4, "subscribers don't wait either"
            assert world.shown == []
            stopping.set()
            world.worker.wake()
            disk.set()
            await running
        last = len(world.seen)
        assert world.shown[-1][1]["m-1"].phase == f"of epoch {last}"
        lines = [json.loads(line)["message"] for line in world.events.path.read_text().splitlines()]
        assert lines == [f"epoch {number}" for number in range(1, last + 1)], "none is lost, and they are in order"

    play(tmp_path, scenario)


def test_a_server_that_nobody_has_news_of_is_only_confirmed(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async def passes(*, woken: bool = False, after: float = 1.0) -> int:
            world.now += after
            await world.worker._pass(woken)
            return len(world.seen)

        assert await passes(woken=True) == 1
        assert await passes() == 2, "what came too soon after other news is still to be told"
        assert [await passes() for _ in range(8)] == [2] * 8
        world.hub._acting("cats")  # confirmed all the same
        assert await passes(woken=True) == 3
        assert await passes() == 4
        instance = "0123456789abcdef"
        world.hub.take_report("cats", ServingReport(server="cats", replica="r", instance=instance, sequence=1))
        assert await passes() == 5, "somebody is heard, or isn't any more"
        assert await passes() == 5
        assert await passes(after=REST_SECONDS) == 6
        world.decide = lambda seen: Outcome(seen.record, seen.plan, write=False, revisit_after=5.0)
        assert await passes(woken=True) == 7
        assert [await passes() for _ in range(3)] == [8, 9, 10], "a clock runs"
        (tmp_path / "servers" / "cats.json").write_text(json.dumps(ServerState(server="cats", plan=plan(7)).to_dict()))
        world.decide = lambda seen: Outcome(seen.record, seen.plan, write=False)
        assert await passes() == 11
        assert await passes() == 11
        (tmp_path / "servers" / "cats.json").unlink()
        assert await passes() == 12, "somebody changed the durable object"

    play(tmp_path, scenario)
