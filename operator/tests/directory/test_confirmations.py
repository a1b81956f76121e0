"""Confirming that durable objects are as they were: all that are due at once, by one look."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from windlass_contract.plan import ServingPlan
from windlass_contract.record import ServerState
from windlass_operator.directory_driver.lock import StateLock
from windlass_operator.directory_driver.store import FolderStore, StateStore
from windlass_operator.driving.durable import StoreError
from windlass_testing import connections_closed

SERVERS = ("cats", "dogs", "owls")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    """With an object of each server."""
    lock = StateLock(tmp_path / "lock")
    lock.try_acquire()
    made = StateStore(tmp_path, lock)
    for server in SERVERS:
        made.write(server, ServerState(server=server, plan=ServingPlan.build(server, 1, {})), "")
    yield made
    lock.release()


def test_all_that_are_asked_for_at_once_are_looked_at_together_each_with_its_own_answer(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    generations = {server: store.generation(server) for server in SERVERS}
    store.path("dogs").write_text("{}")
    store.path("owls").unlink()
    store.path("owls").mkdir()
    hand_overs: list[object] = []
    to_thread = asyncio.to_thread

    async def counted(*arguments: object) -> object:
        hand_overs.append(arguments)
        return await to_thread(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "to_thread", counted)

    async def ask() -> list[float | BaseException | None]:
        folder = FolderStore(store)
        first = await asyncio.gather(
            *(folder.age(server, generations[server]) for server in SERVERS), return_exceptions=True
        )
        assert await folder.age("cats", generations["cats"]) == 0.0, "the next look is another one"
        return first

    cats, dogs, owls = connections_closed.run(ask())
    assert (cats, dogs) == (0.0, None)
    assert isinstance(owls, StoreError)
    assert len(hand_overs) == 2


def test_one_who_goes_away_takes_no_answer_from_the_others(store: StateStore) -> None:
    generation = store.generation("cats")

    async def ask() -> float | None:
        folder = FolderStore(store)
        leaving = asyncio.create_task(folder.age("dogs", ""))
        staying = asyncio.create_task(folder.age("cats", generation))
        await asyncio.sleep(0)
        leaving.cancel()
        return await staying

    assert connections_closed.run(ask()) == 0.0
