"""A model with constants in place of its variables: what depends on them alone is computed when it is loaded. Pure.

Of a network with batch normalization that is much: each layer's scale and shift go into its weights. Only models that
compute and read variables, and whose answers, also of rows run together, equal, as `batching` compares them, those of
the model as it was saved; and only where it makes them quicker. That is tried when the version is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from windlass_server.hosting.batching import LEAST_ROWS, Run, Tensors, join, same_answers, split
from windlass_server.hosting.slicing import row_count

MEMORY_FACTOR = 24
"""Of the variables' bytes: what trying it takes for a moment, with all copies that TensorFlow makes. A fifth of that
stays."""
WORTH = 0.9
"""It has to take less than this share of the time."""
_TIMES = 4


def is_better(run: Run, frozen: Run, rows: Tensors, most: int, clock: Callable[[], float] = time.process_time) -> bool:
    """Whether `frozen` answers as `run` does and is quicker. `most`: rows that may be run together. `clock`: processor
    time, since whoever loads a version beside another is stopped now and then. Raises what both raise, and `ValueError`
    for tensors that aren't rows."""
    ones = split(rows, row_count(rows))
    if len(ones) < LEAST_ROWS:
        raise ValueError(f"{len(ones)} rows show nothing")
    together = join(ones[:most])
    if not all(same_answers(frozen(each), run(each)) for each in (*ones, together)):
        return False
    return _best(lambda: frozen(ones[0]), clock) <= WORTH * _best(lambda: run(ones[0]), clock)


def _best(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds, of several times the least."""
    best = float("inf")
    for _ in range(_TIMES):
        begun = clock()
        work()
        best = min(best, clock() - begun)
    return best
