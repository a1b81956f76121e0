"""How many rows are run together, and how much is frozen. Apart from `batching` and `freezing`, since settings need it
before numpy is imported."""

from __future__ import annotations

MOST_ROWS = 32
SLICE_ROWS = 8
"""Of a request with many rows, where nothing else is said."""
FREEZE_BYTES = 32 * 1024 * 1024
"""Of variables that become constants, where nothing else is said."""
SIZES = (1, 2, 4, 8, 16, 32)
"""Of batches."""


def largest_size(count: int) -> int:
    """The largest power of two that is not above `count` nor `MOST_ROWS`."""
    return max(size for size in SIZES if size <= count)
