"""KV pages: reference counts, and the prefix cache, which finds full pages by their content.

Pages are numbers here; the workers own the memory. All operations are O(1) per page.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence as Seq
from hashlib import sha256

_ROOT = b"gllm prefix cache root\0"
_LONG_ROPE_ROOT = b"gllm prefix cache root of long rope\0"


def root_digest(salt: str, *, long_rope: bool = False) -> bytes:
    """Return the start of a chain of digests. Requests with different salts or rope frequencies never share a page.

    Because of the prefix no salt can imitate a page's digest.
    """
    return sha256((_LONG_ROPE_ROOT if long_rope else _ROOT) + salt.encode()).digest()


def prompt_root(salt: str, num_prompt: int, long_rope_from: int | None) -> bytes:
    """Return the root of a prompt's digests. Prompts of more than `long_rope_from` tokens have their own rope."""
    return root_digest(salt, long_rope=long_rope_from is not None and num_prompt > long_rope_from)


def extend_digests(digests: list[bytes], root: bytes, token_ids: Seq[int], page_size: int) -> None:
    """Append the digests of the full pages of `token_ids` that `digests` does not have yet.

    digest(page) = SHA-256(digest(parent page) + token ids as 32-bit integers): equal digests mean equal salts and
    equal tokens from the first one on.
    """
    first = len(digests)
    last = len(token_ids) // page_size
    if first >= last:
        return
    parent = digests[-1] if digests else root
    raw = array("i", token_ids[first * page_size : last * page_size]).tobytes()
    size = len(raw) // (last - first)
    for start in range(0, len(raw), size):
        parent = sha256(parent + raw[start : start + size]).digest()
        digests.append(parent)


class PagePool:
    """Allocates and releases pages.

    A page is *held* (references > 0), *cached* (no reference, but found by its content; evicted in LRU order when pages
    run out), or *empty*. Cached and empty pages are free.
    """

    def __init__(self, num_pages: int, page_size: int, *, prefix_caching: bool = True) -> None:
        if num_pages < 1 or page_size < 1:
            raise ValueError(f"a KV pool needs pages: num_pages={num_pages}, page_size={page_size}")
        self.num_pages = num_pages
        self.page_size = page_size
        self.prefix_caching = prefix_caching
        self._empty = list(range(num_pages - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._references = [0] * num_pages
        self._digest: list[bytes | None] = [None] * num_pages
        self._page: dict[bytes, int] = {}
        self._changes: dict[bytes, bool] | None = None
        """Since the last `take_changes`: whether the digest came or went; None: no gateway asked for them."""

    @property
    def num_free(self) -> int:
        return len(self._empty) + len(self._cached)

    @property
    def free_share(self) -> float:
        return self.num_free / self.num_pages

    def references(self, page: int) -> int:
        """Return the number of sequences that hold the page."""
        return self._references[page]

    def allocate(self, count: int) -> list[int]:
        """Take `count` pages whose content is undefined; the caller has checked `num_free`."""
        assert count <= self.num_free, "the scheduler must check num_free"
        references = self._references
        pages = []
        for _ in range(count):
            page = self._empty.pop() if self._empty else self._evict()
            references[page] = 1
            pages.append(page)
        return pages

    def _evict(self) -> int:
        page, _ = self._cached.popitem(last=False)
        digest = self._digest[page]
        assert digest is not None
        del self._page[digest]
        self._digest[page] = None
        if self._changes is not None:
            self._changes[digest] = False
        return page

    def release(self, pages: Seq[int]) -> None:
        """Drop one reference to each page. The last page of a chain is evicted first."""
        references = self._references
        for page in reversed(pages):
            references[page] -= 1
            assert references[page] >= 0, f"page {page} released twice"
            if references[page] == 0:
                if self._digest[page] is None:
                    self._empty.append(page)
                else:
                    self._cached[page] = None

    def register(self, page: int, digest: bytes) -> None:
        """Put a held, full page into the prefix cache, unless it has an equal page already."""
        if self.prefix_caching and digest not in self._page and self._digest[page] is None:
            self._page[digest] = page
            self._digest[page] = digest
            if self._changes is not None:
                self._changes[digest] = True

    def cached_digests(self) -> list[bytes]:
        """Return the digests of all pages that can be found; `take_changes` continues from here."""
        self._changes = {}
        return list(self._page)

    def ignore_changes(self) -> None:
        """Note no changes until the next `cached_digests`."""
        self._changes = None

    def take_changes(self) -> tuple[list[bytes], list[bytes]]:
        """Return (digests that came, digests that went) since the last call."""
        if not self._changes:
            return [], []
        changes, self._changes = self._changes, {}
        came = [digest for digest, there in changes.items() if there]
        return came, [digest for digest, there in changes.items() if not there]

    def count_hits(self, digests: Seq[bytes], known: int, most: int) -> int:
        """Return the number of leading digests, at most `most`, that have a page; `known` is an earlier result."""
        known = min(known, most)
        if known and digests[known - 1] not in self._page:
            known = 0
        while known < most and digests[known] in self._page:
            known += 1
        return known

    def lookup(self, digests: Seq[bytes], most: int) -> list[int]:
        """Return the pages of the leading digests, at most `most`, without taking references."""
        pages = []
        for index in range(most):
            page = self._page.get(digests[index])
            if page is None:
                break
            pages.append(page)
        return pages

    def num_unheld(self, pages: Seq[int]) -> int:
        """Return the number of these pages that are free until `acquire`."""
        references = self._references
        return sum(1 for page in pages if references[page] == 0)

    def acquire(self, pages: Seq[int]) -> None:
        """Take a reference to each of these pages, which `lookup` returned."""
        references = self._references
        for page in pages:
            if references[page] == 0:
                del self._cached[page]
            references[page] += 1
