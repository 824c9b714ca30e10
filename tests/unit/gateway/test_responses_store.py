"""The bounds of the store of responses."""

from __future__ import annotations

import pytest

from gllm.gateway.api.responses.store import ResponseStore, StoredResponse, read_items
from gllm.gateway.protocol.errors import ApiError


def stored(size: int, history: tuple[bytes, ...] = (), name: str = "m") -> StoredResponse:
    return StoredResponse(b"", history, [{"id": name, "text": "x" * (size - len(f'{{"id":"{name}","text":""}}'))}], [])


def test_number_and_use() -> None:
    store = ResponseStore(max_responses=2)
    for name in ("a", "b"):
        store.add(name, stored(100))
    store.get("a")
    store.add("c", stored(100))
    assert store.get("a").size == 100
    with pytest.raises(ApiError):
        store.get("b")


def test_bytes() -> None:
    store = ResponseStore(max_bytes=250)
    store.add("resp_a", stored(100))
    # The earlier conversation counts again.
    store.add("resp_b", stored(100, store.history("resp_a")))
    with pytest.raises(ApiError):
        store.history("resp_a")
    assert len(read_items(store.history("resp_b"))) == 2
    store.add("resp_large", stored(300))
    for name in ("resp_b", "resp_large"):
        with pytest.raises(ApiError):
            store.get(name)
    # Deleted responses are not counted.
    store.add("resp_c", stored(250))
    store.delete("resp_c")
    store.add("resp_d", stored(250))


def test_items() -> None:
    """An item can be referenced as long as the response that brought it is stored, not longer."""
    store = ResponseStore(max_responses=2)
    store.add("a", stored(100, name="m"))
    store.add("b", stored(100, name="m"))
    assert store.item("m")["id"] == "m"
    store.delete("b")
    assert store.item("m")["id"] == "m"
    store.delete("a")
    with pytest.raises(ApiError) as refused:
        store.item("m")
    assert refused.value.status == 404
