"""Whether a request that a version failed is answered once more, by which version, and in what time. Pure.

Predictions have no side effects, so asking another version is always allowed; it happens when the version, and not the
client, is at fault, and the client hasn't named a version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from windlass_contract.manifest import Signature, TensorSpec
from windlass_server.errors import Code
from windlass_server.hosting.router import Held

T = TypeVar("T")

VERSIONS_FAULTS = frozenset({Code.INTERNAL, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED})
"""What a version answers when it failed, crashed, was too slow or wanted more memory than there is. Everything else is
about the request. (Who finds the queue full isn't admitted, and never gets here.)"""
LEAST_RESERVE_SECONDS = 0.5
"""Kept of a request's time for the second answer, at least."""
USUAL_FACTOR = 5
"""Kept of a request's time: this many times what the second version usually needs, but at most half."""


def is_answered_again(code: Code, *, explicit: bool, left: float) -> bool:
    """After an answer with `code` and with `left` seconds of the request's time. `explicit`: it named a version or
    label, so that no other version's answer is what was asked for."""
    return code in VERSIONS_FAULTS and not explicit and left > 0


def any_other(failed: T, seconds: Sequence[Held[T]]) -> bool:
    """Whether there is one besides it; mostly there is none, and every request asks."""
    return len(seconds) > 1 or (len(seconds) == 1 and seconds[0].target != failed)


def second_of(failed: T, seconds: Sequence[Held[T]], broken: Sequence[T] = ()) -> Held[T] | None:
    """Who answers instead. `seconds`: who may, the committed version first, then the previous one. `broken`: whose
    breaker is open; they don't help."""
    return next((each for each in seconds if each.target != failed and each.target not in broken), None)


def time_for_first(left: float, usual: float | None) -> float:
    """Seconds for the first version of the `left` ones, so that enough are left for a second answer.

    `usual`: seconds that the second version needs; None: there is none. A second that needs more than half of the time
    gets none: a version that is slow by nature isn't cut off for its sake.
    """
    if usual is None or usual > left / 2:
        return left
    return left - min(max(LEAST_RESERVE_SECONDS, USUAL_FACTOR * usual), left / 2)


def same_interface(name: str, one: Mapping[str, Signature], other: Mapping[str, Signature]) -> bool:
    """Whether what was read for a signature of one version can be asked of, and answered for, another."""
    first, second = one.get(name), other.get(name)
    return (
        first is not None
        and second is not None
        and _types(first.inputs) == _types(second.inputs)
        and _types(first.outputs) == _types(second.outputs)
    )


def _types(tensors: Mapping[str, TensorSpec]) -> dict[str, str]:
    return {name: tensor.datatype for name, tensor in tensors.items()}
