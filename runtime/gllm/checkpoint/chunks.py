"""Reading a tensor in row chunks, so that loading needs little memory beside the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator

CHUNK_BYTES = 32 * 1024 * 1024


def chunked(rows: slice, num_rows: int, row_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Split `rows` of a tensor into (rows of the tensor, rows of the result) of about CHUNK_BYTES each."""
    start, stop, _ = rows.indices(num_rows)
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    for first in range(start, stop, step):
        last = min(first + step, stop)
        yield slice(first, last), slice(first - start, last - start)
