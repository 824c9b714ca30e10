"""What a gateway knows of a prefix cache is what the engine finds in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gllm.engine.client.prefixes import cached_tokens
from gllm.engine.kv_pages import PagePool, extend_digests, prompt_root, root_digest

SIZE = 4
PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=30)


@given(st.lists(st.tuples(PROMPTS, st.sampled_from(["", "salt"])), max_size=12), st.integers(0, 12), PROMPTS)
def test_a_replica_of_the_cache_has_its_hits(
    prompts: list[tuple[list[int], str]], begin: int, asked: list[int]
) -> None:
    pool = PagePool(8, SIZE)
    known: set[bytes] | None = None
    for number, (tokens, salt) in enumerate(prompts):
        if number == begin:
            known = set(pool.cached_digests())
        digests: list[bytes] = []
        extend_digests(digests, root_digest(salt), tokens, SIZE)
        hits = pool.lookup(digests, len(digests))
        pool.acquire(hits)
        pages = hits + pool.allocate(len(digests) - len(hits))
        for page, digest in zip(pages, digests, strict=True):
            pool.register(page, digest)
        pool.release(pages)
        if known is not None and number % 2:
            came, went = pool.take_changes()
            known = (known - set(went)) | set(came)
    if known is None:
        assert pool.take_changes() == ([], [])
        return
    came, went = pool.take_changes()
    known = (known - set(went)) | set(came)
    assert known == set(pool._page)
    root = prompt_root("", len(asked), None)
    digests = []
    extend_digests(digests, root, asked, SIZE)
    hits_of_engine = pool.count_hits(digests, 0, (len(asked) - 1) // SIZE) * SIZE
    assert cached_tokens(asked, root, SIZE, [known, set()]) == [hits_of_engine, 0]


def test_long_prompts_of_a_long_rope_have_their_own_pages() -> None:
    assert prompt_root("a", 100, None) == prompt_root("a", 100, 100) == root_digest("a")
    assert prompt_root("a", 101, 100) == root_digest("a", long_rope=True)


def test_nothing_is_noted_for_nobody() -> None:
    pool = PagePool(2, SIZE)
    pool.cached_digests()
    pool.register(pool.allocate(1)[0], b"a")
    pool.ignore_changes()
    pool.register(pool.allocate(1)[0], b"b")
    assert pool.take_changes() == ([], [])
    assert set(pool.cached_digests()) == {b"a", b"b"}
