"""Has a worker try its model with constants in place of its variables, and run that if it is better; see `freezing`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from windlass_contract.manifest import Signature
from windlass_server.errors import ServingError
from windlass_server.hosting.freezing import MEMORY_FACTOR, may_be_tried
from windlass_server.hosting.hosted_worker import HostedWorker, ResidentSettings
from windlass_server.tensors import Tensor

_SHARE_OF_DEADLINE = 0.25
"""Of that for the whole load."""


class FreezingError(Exception):
    """It failed, and what the worker has loaded isn't to be used any more; the message says why."""


async def try_frozen(
    worker: HostedWorker,
    settings: ResidentSettings,
    signatures: Mapping[str, Signature],
    rows: Mapping[str, dict[str, Tensor]],
    most: int,
    *,
    better: bool,
) -> bool:
    """Whether the worker's model is run frozen from now on. `rows`: of each served signature, the model's own samples,
    or none; `most` are run together. `better`: that was found out before. Raises `FreezingError`, and
    `WorkerDownError` when the worker dies of it."""
    if not all(may_be_tried(signature, rows[name]) for name, signature in signatures.items()):
        return False
    served = list(signatures)
    try:
        async with asyncio.timeout(settings.load_deadline * _SHARE_OF_DEADLINE):
            answer, _ = await worker.call({"op": "freezable", "served": served, "most": settings.freeze_bytes})
            size = answer["bytes"]
            if not 0 < size <= settings.freeze_bytes or not _has_room_for(MEMORY_FACTOR * size, settings):
                return False
            await worker.call({"op": "freeze", "served": served})
            better = better or await _is_better(worker, rows, most)
            await worker.call({"op": "adopt", "frozen": better})
    except ServingError as error:
        raise FreezingError(error.message) from error
    except TimeoutError:
        raise FreezingError("it takes too long") from None
    return better


async def _is_better(worker: HostedWorker, rows: Mapping[str, dict[str, Tensor]], most: int) -> bool:
    for name, samples in rows.items():
        answer, _ = await worker.call({"op": "try", "signature": name, "rows": most}, samples)
        if answer["better"] is not True:
            return False
    return True


def _has_room_for(size: int, settings: ResidentSettings) -> bool:
    room = settings.room
    try:
        return room is None or room.level().left - room.reserve >= size
    except (OSError, ValueError):
        return False  # it isn't known
