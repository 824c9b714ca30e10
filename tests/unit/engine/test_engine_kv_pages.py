"""Reference counts, the digest chain, and the order of eviction."""

from __future__ import annotations

from hashlib import sha256

import pytest

from gllm.engine.kv_pages import PagePool, extend_digests, root_digest


def chain(tokens: list[int], salt: str = "", page_size: int = 2) -> list[bytes]:
    digests: list[bytes] = []
    extend_digests(digests, root_digest(salt), tokens, page_size)
    return digests


def cached(pool: PagePool, tokens: list[int], salt: str = "") -> list[int]:
    """Compute and release the full pages of some tokens."""
    digests = chain(tokens, salt, pool.page_size)
    pages = pool.allocate(len(digests))
    for page, digest in zip(pages, digests, strict=True):
        pool.register(page, digest)
    pool.release(pages)
    return pages


def test_a_digest_is_the_sha256_of_parent_and_tokens() -> None:
    root = root_digest("salt")
    first = sha256(root + bytes([1, 0, 0, 0, 2, 0, 0, 0])).digest()
    second = sha256(first + bytes([3, 0, 0, 0, 0, 1, 0, 0])).digest()
    assert chain([1, 2, 3, 256, 5], "salt") == [first, second]


def test_a_chain_that_grows_equals_one_built_at_once() -> None:
    digests = chain([1, 2, 3])
    extend_digests(digests, root_digest(""), [1, 2, 3, 4, 5, 6, 7], 2)
    assert digests == chain([1, 2, 3, 4, 5, 6, 7])


def test_equal_pages_after_different_beginnings_differ() -> None:
    assert chain([1, 2, 5, 6])[1] != chain([3, 4, 5, 6])[1]


def test_salts_never_share() -> None:
    pool = PagePool(8, 2)
    pages = cached(pool, [1, 2, 3, 4], "alice")
    assert pool.lookup(chain([1, 2, 3, 4], "alice"), 2) == pages
    assert pool.lookup(chain([1, 2, 3, 4], "bob"), 2) == []
    assert pool.lookup(chain([1, 2, 3, 4]), 2) == []


def test_lookup_stops_at_the_first_miss_and_at_its_limit() -> None:
    pool = PagePool(8, 2)
    pages = cached(pool, [1, 2, 3, 4, 5, 6])
    assert pool.lookup(chain([1, 2, 3, 4, 9, 9]), 3) == pages[:2]
    assert pool.lookup(chain([1, 2, 3, 4, 5, 6]), 1) == pages[:1]
    assert pool.count_hits(chain([1, 2, 3, 4, 9, 9]), 0, 3) == 2


def test_cached_pages_count_as_free_until_acquired() -> None:
    pool = PagePool(4, 2)
    pages = cached(pool, [1, 2, 3, 4])
    assert pool.num_free == 4
    assert pool.num_unheld(pages) == 2
    pool.acquire(pages)
    pool.acquire(pages[:1])
    assert pool.num_free == 2
    assert pool.free_share == 0.5
    assert pool.num_unheld(pages) == 0
    pool.release(pages)
    assert pool.references(pages[0]) == 1
    assert pool.num_free == 3
    pool.release(pages[:1])
    assert pool.num_free == 4


def test_eviction_is_least_recently_used_and_takes_a_chain_from_its_end() -> None:
    pool = PagePool(4, 2)
    old = cached(pool, [1, 2, 3, 4])
    new = cached(pool, [5, 6, 7, 8])
    pool.acquire(old)  # used again: now `new` is the least recently used
    pool.release(old)
    assert pool.allocate(1) == [new[1]]
    assert pool.lookup(chain([5, 6, 7, 8]), 2) == new[:1]
    assert pool.lookup(chain([1, 2, 3, 4]), 2) == old
    assert pool.allocate(2) == [new[0], old[1]]
    assert pool.lookup(chain([1, 2, 3, 4]), 2) == old[:1]


def test_empty_pages_go_before_cached_ones() -> None:
    pool = PagePool(4, 2)
    pages = cached(pool, [1, 2])
    others = pool.allocate(3)
    assert pages[0] not in others
    assert pool.lookup(chain([1, 2]), 1) == pages


def test_of_two_equal_pages_the_first_stays_cached() -> None:
    pool = PagePool(4, 2)
    digest = chain([1, 2])[0]
    first, second = pool.allocate(2)
    pool.register(first, digest)
    pool.register(second, digest)
    pool.release([second])
    assert pool.lookup([digest], 1) == [first]
    pool.release([first])
    assert pool.num_free == 4


def test_hits_are_counted_again_after_an_eviction() -> None:
    pool = PagePool(2, 2)
    cached(pool, [1, 2, 3, 4])
    digests = chain([1, 2, 3, 4])
    assert pool.count_hits(digests, 0, 2) == 2
    pool.allocate(1)
    assert pool.count_hits(digests, 2, 2) == 1


def test_without_prefix_caching_nothing_is_found() -> None:
    pool = PagePool(4, 2, prefix_caching=False)
    cached(pool, [1, 2, 3, 4])
    assert pool.lookup(chain([1, 2, 3, 4]), 2) == []
    assert pool.num_free == 4


def test_misuse_is_caught() -> None:
    with pytest.raises(ValueError, match="num_pages=0"):
        PagePool(0, 16)
    pool = PagePool(2, 2)
    pages = pool.allocate(2)
    with pytest.raises(AssertionError):
        pool.allocate(1)
    pool.release(pages)
    with pytest.raises(AssertionError):
        pool.release(pages)
