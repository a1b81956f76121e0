"""Batches of real models in real workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windlass_contract.report import VersionState
from windlass_server.errors import Code, ServingError
from windlass_server.hosting.channel import Answer
from windlass_server.hosting.hosted_worker import HostedWorker, ResidentSettings
from windlass_server.hosting.resident import Resident
from windlass_testing import models

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Make = Callable[..., Resident]
ROWS = np.random.default_rng(3).normal(size=(200, 4)).astype(np.float32)


async def ask(resident: Resident, row: np.ndarray[Any, Any]) -> Any:
    return (await resident.infer("serving_default", {"x": row[None]}, timeout=30))["y"][0]


@pytest.mark.parametrize(
    ("kind", "batched"),
    [
        ("dense", True),
        ("centred", False),
        ("ranked", False),
        ("branching", False),
        ("counting", False),
        ("dropping", False),
    ],
)
def test_only_rows_that_are_independent_are_run_together(
    run: Run, make_resident: Make, tmp_path: Path, kind: str, batched: bool
) -> None:
    models.rowwise(tmp_path, "m", 1, kind)
    resident = make_resident("m")

    async def main() -> None:
        await resident.prepare()
        assert resident.state is VersionState.PREPARED
        assert resident.batched == ({"serving_default"} if batched else frozenset())
        if kind in {"dropping", "ranked"}:
            return
        alone = [await ask(resident, row) for row in ROWS[:20]]
        together = await asyncio.gather(*(ask(resident, row) for row in ROWS[:20]))
        np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
        if kind == "centred":
            assert not np.any(together)  # each less its own mean

    run(main())


def test_among_many_at_once_each_gets_its_own_answer_and_the_bad_ones_theirs(
    run: Run, make_resident: Make, tmp_path: Path
) -> None:
    models.rowwise(tmp_path, "m", 1, "dense")
    resident = make_resident("m")

    async def main() -> None:
        await resident.prepare()
        expected = (await resident.infer("serving_default", {"x": ROWS}, timeout=30))["y"]
        bad = [ask(resident, np.zeros(5, np.float32)) for _ in range(20)]
        answers = await asyncio.gather(*(ask(resident, row) for row in ROWS), *bad, return_exceptions=True)
        np.testing.assert_allclose(answers[:200], expected, rtol=1e-4, atol=1e-5)
        for error in answers[200:]:
            assert isinstance(error, ServingError)
            assert error.code is Code.INVALID_ARGUMENT

    run(main())


@pytest.mark.parametrize("kind", ["dense", "centred", "ranked", "branching", "dropping"])
def test_a_large_request_s_answer_is_the_model_s_own(run: Run, make_resident: Make, tmp_path: Path, kind: str) -> None:
    models.rowwise(tmp_path, "m", 1, kind, warmup_batch_sizes=(1, 32))
    models.rowwise(tmp_path, "whole", 1, kind, warmup_batch_sizes=(1, 32))
    resident = make_resident("m")
    whole = make_resident("whole", settings=ResidentSettings(threads=2, slice_rows=0))

    async def main() -> None:
        for each in (resident, whole):
            await each.prepare()
            assert each.state is VersionState.PREPARED
        assert whole.slice_rows == 0
        # Of so small a model slices take longer.
        assert resident.slice_rows == 0
        found, expected = [
            (await each.infer("serving_default", {"x": ROWS}, timeout=30))["y"] for each in (resident, whole)
        ]
        if kind == "dropping":
            return
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    run(main())


def test_slices_are_tried_with_as_many_rows_as_the_manifest_names_and_what_was_found_is_told(
    run: Run, make_resident: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is a real one. What it says of so small a model depends on the time that it takes, so for the one it
    is put in its mouth that slices are as good."""
    models.rowwise(tmp_path, "m", 1, "dense", warmup_batch_sizes=(1, 32, 4))
    models.rowwise(tmp_path, "none", 1, "dense")
    residents = [make_resident("m"), make_resident("none")]
    asked: list[int] = []
    call = HostedWorker.call

    async def listened(worker: HostedWorker, head: dict[str, Any], *tensors: Any) -> Answer:
        answer, found = await call(worker, head, *tensors)
        if head["op"] == "batch":
            asked.append(head["rows"])
            answer = {**answer, "sliced": head["rows"] == 32}
        return answer, found

    monkeypatch.setattr(HostedWorker, "call", listened)

    async def main() -> None:
        for resident in residents:
            await resident.prepare()
        assert asked == [32, 1]
        assert [resident.slice_rows for resident in residents] == [8, 0]

    run(main())


def test_where_the_setting_says_so_none_are_run_together(run: Run, make_resident: Make, tmp_path: Path) -> None:
    models.rowwise(tmp_path, "m", 1, "dense")
    residents = [make_resident("m", settings=ResidentSettings(threads=2, max_batch_size=most)) for most in (1, 5)]

    async def main() -> None:
        for resident in residents:
            await resident.prepare()
        assert [bool(resident.batched) for resident in residents] == [False, True]
        assert [resident.max_batch_size for resident in residents] == [1, 4]

    run(main())
