"""How much of a prompt each of several engines has in its prefix cache."""

from __future__ import annotations

from collections.abc import Container, Sequence

from gllm.engine.kv_pages import extend_digests


def cached_tokens(
    token_ids: Sequence[int], root: bytes, page_size: int, caches: Sequence[Container[bytes]]
) -> list[int]:
    """Return the number of leading tokens that each cache has; a cache is the digests of an engine's KV pages.

    The last token is always computed, so its page does not count. Digests are made page by page, until no cache has
    the next one.
    """
    found = [0] * len(caches)
    parent = root
    following = list(range(len(caches)))
    for end in range(page_size, len(token_ids), page_size):
        page: list[bytes] = []
        extend_digests(page, parent, token_ids[end - page_size : end], page_size)
        parent = page[0]
        following = [index for index in following if parent in caches[index]]
        if not following:
            break
        for index in following:
            found[index] = end
    return found
