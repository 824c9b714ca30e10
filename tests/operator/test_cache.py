"""The cache of owned objects, and the informer that fills it when a watch expires."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from gllm_operator.kube.api import ApiError
from gllm_operator.kube.cache import Cache
from gllm_operator.kube.informer import Informer
from gllm_operator.names import DEPLOYMENT
from gllm_operator.objects import Object, ObjectKey

LLM = ObjectKey("default", "llm")


def pod(name: str, version: int = 1, uid: str = "") -> Object:
    metadata = {
        "name": name,
        "namespace": "default",
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
        "labels": {DEPLOYMENT: "llm"},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


def names(cache: Cache) -> set[str]:
    return {one["metadata"]["name"] for one in cache.of(LLM)}


def test_an_older_version_does_not_replace_a_newer_one() -> None:
    changes: list[ObjectKey] = []
    cache = Cache(changes.append)
    cache.put(pod("a", version=10))
    cache.put(pod("a", version=9))
    assert changes == [LLM]
    (found,) = cache.of(LLM)
    assert found["metadata"]["resourceVersion"] == "10"
    cache.put(pod("a", version=2, uid="another"))
    (found,) = cache.of(LLM)
    assert found["metadata"]["uid"] == "another"


def test_own_writes_are_seen_and_do_not_notify() -> None:
    changes: list[ObjectKey] = []
    cache = Cache(changes.append)
    cache.put(pod("a"), notify=False)
    assert names(cache) == {"a"}
    cache.remove(pod("a", uid="another"))
    assert names(cache) == {"a"}
    cache.remove(pod("a"), notify=False)
    assert names(cache) == set()
    assert changes == []


class Expiring:
    """An API server whose first watch expires, while pod `b` is deleted."""

    def __init__(self) -> None:
        self.lists = [[pod("a"), pod("b")], [pod("a", version=3)]]
        self.watches = 0

    async def list(self, *_: Any) -> tuple[list[Object], str]:
        return self.lists.pop(0), "1"

    async def watch(self, *_: Any) -> AsyncIterator[tuple[str, Object]]:
        self.watches += 1
        if self.watches == 1:
            raise ApiError(410, "Expired", "too old resource version")
        yield "ADDED", pod("c", version=4)
        await asyncio.Event().wait()


def test_objects_that_were_deleted_before_a_new_list_are_removed() -> None:
    async def go() -> None:
        added = asyncio.Event()
        cache = Cache(lambda _: added.set() if "c" in names(cache) else None)
        informer = Informer(Expiring(), cache, "v1", "Pod", ())  # type: ignore[arg-type]
        task = asyncio.create_task(informer.run())
        await asyncio.wait_for(added.wait(), 30)
        assert names(cache) == {"a", "c"}
        task.cancel()

    asyncio.run(go())
