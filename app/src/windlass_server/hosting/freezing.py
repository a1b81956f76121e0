"""A model with constants in place of its variables: what depends on them alone is computed when it is loaded. Pure.

Of a network with batch normalization that is much: each layer's scale and shift go into its weights. Only models that
compute and read variables, and whose answers to rows, alone and together, equal, as `batching` compares them, those of
the model as it was saved; and only where it makes them quicker. That is tried when the version is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from windlass_contract.manifest import Signature
from windlass_server.hosting.batching import LEAST_ROWS, Run, Tensors, has_rows, join, same_answers, split
from windlass_server.hosting.slicing import Timed, row_count

MEMORY_FACTOR = 24
"""Of the variables' bytes: what trying it takes for a moment, with all copies that TensorFlow makes. A fifth of that
stays."""
WORTH = 0.9
"""It has to take less than this share of the time."""
_SLOW_SECONDS = 0.25
"""A model that takes longer is tried with `LEAST_ROWS` rows."""
_AT_A_TIME = 2


def may_be_tried(signature: Signature, samples: Tensors) -> bool:
    """Whether rows show something: the model's own `samples`, or random ones of a shape that is known."""
    fixed = all(-1 not in (spec.shape or ())[1:] for spec in signature.inputs.values())
    return has_rows(signature) and (bool(samples) or fixed)


def is_better(run: Run, frozen: Run, rows: Tensors, most: int, clock: Callable[[], float] = time.process_time) -> bool:
    """Whether `frozen` answers as `run` does and is quicker. `most`: rows that may be run together; two always may, as
    two requests may be at a time. `clock`: processor time, since whoever loads a version beside another is stopped now
    and then. Raises what both raise, and `ValueError` for tensors that aren't rows."""
    ones = split(rows, row_count(rows))
    if len(ones) < LEAST_ROWS:
        raise ValueError(f"{len(ones)} rows show nothing")
    one_run, frozen_run = Timed(run, clock), Timed(frozen, clock)
    for index, row in enumerate(ones):
        if not same_answers(frozen_run(row), one_run(row)):
            return False
        if index + 1 >= LEAST_ROWS and one_run.best > _SLOW_SECONDS:
            break
    together = join(ones[: max(most, _AT_A_TIME)])
    return frozen_run.best <= WORTH * one_run.best and same_answers(frozen(together), run(together))
