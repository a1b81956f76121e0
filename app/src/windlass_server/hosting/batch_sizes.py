"""How many rows are run together. Apart from `batching`, since settings need it before numpy is imported."""

from __future__ import annotations

MOST_ROWS = 32
SLICE_ROWS = 8
"""Of a request with many rows, where nothing else is said."""
SIZES = (1, 2, 4, 8, 16, 32)
"""Of batches."""


def largest_size(count: int) -> int:
    """The largest power of two that is not above `count` nor `MOST_ROWS`."""
    return max(size for size in SIZES if size <= count)
