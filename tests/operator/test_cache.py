"""The cache of owned objects, and the informer that fills it when a watch breaks or expires."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gllm_operator.controller.execute import Executor
from gllm_operator.controller.memory import Memory
from gllm_operator.kube.api import ApiError
from gllm_operator.kube.cache import Cache
from gllm_operator.kube.informer import Informer
from gllm_operator.names import DEPLOYMENT, Owner
from gllm_operator.objects import Object, ObjectKey, ref_of
from gllm_operator.plan import Delete

LLM = ObjectKey("default", "llm")


def pod(name: str, version: int = 1, uid: str = "", namespace: str = "default", **metadata: Any) -> Object:
    found = {
        "name": name,
        "namespace": namespace,
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
        "labels": {DEPLOYMENT: "llm"},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": found | metadata}


def names(cache: Cache, namespace: str = "default") -> set[str]:
    return {one["metadata"]["name"] for one in cache.of(ObjectKey(namespace, "llm"))}


def test_an_older_version_does_not_replace_a_newer_one() -> None:
    changes: list[ObjectKey] = []
    cache = Cache(changes.append)
    cache.put(pod("a", version=10))
    cache.put(pod("a", version=9))
    cache.put(pod("a", version=8, uid="an earlier one"))
    assert changes == [LLM]
    (found,) = cache.of(LLM)
    assert found["metadata"]["resourceVersion"] == "10"
    cache.put(pod("a", version=12, uid="another"))
    (found,) = cache.of(LLM)
    assert found["metadata"]["uid"] == "another"


def test_own_writes_are_seen_and_do_not_notify() -> None:
    changes: list[ObjectKey] = []
    cache = Cache(changes.append)
    cache.wrote(pod("a"))
    assert names(cache) == {"a"}
    cache.deleted("default", ref_of(pod("a")), "another uid")
    assert names(cache) == {"a"}
    cache.deleted("default", ref_of(pod("a")), "uid-a")
    assert names(cache) == set()
    assert changes == []


def test_an_object_that_changes_its_deployment_moves() -> None:
    changes: list[ObjectKey] = []
    cache = Cache(changes.append)
    cache.put(pod("a", version=1))
    cache.put(pod("a", version=2, labels={DEPLOYMENT: "other"}))
    assert names(cache) == set()
    assert changes == [LLM, LLM, ObjectKey("default", "other")]


def test_a_list_keeps_what_was_written_after_it() -> None:
    cache = Cache()
    cache.replace("v1", "Pod", None, [pod("a", version=1)], 2)
    cache.wrote(pod("b", version=5))
    cache.replace("v1", "Pod", None, [], 4)
    assert names(cache) == {"b"}


@pytest.mark.parametrize("final", [True, False])
def test_a_late_answer_does_not_bring_an_object_back(final: bool) -> None:
    """The watch delivers the end of an object before the operator gets the answer to its DELETE."""
    cache = Cache()
    cache.put(pod("a", version=10))

    class Api:
        async def delete(self, *_: Any, **__: Any) -> Object | None:
            cache.remove(pod("a", version=12))
            return None if final else pod("a", version=11, deletionTimestamp="2026-11-27T21:10:38Z")

    delete = Delete(ref_of(pod("a")), "uid-a", "drains")
    asyncio.run(Executor(Api(), cache)._delete(delete, Owner("default", "llm", "u0"), Memory()))  # type: ignore[arg-type]
    assert names(cache) == set()


def test_a_list_from_a_restored_backup_replaces_all() -> None:
    cache = Cache()
    cache.replace("v1", "Pod", None, [pod("a", version=90), pod("b", version=95)], 100)
    cache.put(pod("c", version=101))
    cache.replace("v1", "Pod", None, [pod("a", version=40)], 50)
    assert [one["metadata"]["resourceVersion"] for one in cache.of(LLM)] == ["40"]
    cache.put(pod("d", version=51))
    assert names(cache) == {"a", "d"}


class Expiring:
    """An API server whose first watch ends in an error, while pod `b` is deleted."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.lists: dict[str | None, int] = {}
        self.watches: dict[str | None, int] = {}

    async def list(self, _: str, __: str, namespace: str | None, ___: str) -> tuple[list[Object], str]:
        number = self.lists[namespace] = self.lists.get(namespace, 0) + 1
        where = namespace or "default"
        found = (
            [pod("a", 1, namespace=where), pod("b", 2, namespace=where)] if number == 1 else [pod("a", 3, "", where)]
        )
        return found, "2" if number == 1 else "3"

    async def watch(self, _: str, __: str, namespace: str | None, *___: Any) -> AsyncIterator[tuple[str, Object]]:
        number = self.watches[namespace] = self.watches.get(namespace, 0) + 1
        if number == 1:
            raise ApiError(self.status, "Expired", "too old resource version, or a connection that breaks")
        yield "ADDED", pod("c", version=4, namespace=namespace or "default")
        await asyncio.Event().wait()


@pytest.mark.parametrize("status", [410, 0])
@pytest.mark.parametrize("namespaces", [(), ("default",), ("default", "other")])
def test_objects_that_were_deleted_before_a_new_list_are_removed(namespaces: tuple[str, ...], status: int) -> None:
    async def go() -> None:
        added = asyncio.Event()
        wanted = namespaces or ("default",)
        cache = Cache(lambda _: added.set() if all("c" in names(cache, one) for one in wanted) else None)
        informer = Informer(Expiring(status), cache, "v1", "Pod", namespaces)  # type: ignore[arg-type]
        task = asyncio.create_task(informer.run())
        await asyncio.wait_for(added.wait(), 30)
        for one in wanted:
            assert names(cache, one) == {"a", "c"}
        task.cancel()

    asyncio.run(go())


def test_an_informer_is_synced_when_all_namespaces_are_listed() -> None:
    class Slow(Expiring):
        async def list(self, version: str, kind: str, namespace: str | None, what: str) -> tuple[list[Object], str]:
            if namespace == "slow":
                await release.wait()
            return await super().list(version, kind, namespace, what)

    async def go() -> None:
        informer = Informer(Slow(410), Cache(), "v1", "Pod", ("quick", "slow"))  # type: ignore[arg-type]
        task = asyncio.create_task(informer.run())
        await asyncio.sleep(0.05)
        assert not informer.synced.is_set()
        release.set()
        await asyncio.wait_for(informer.synced.wait(), 5)
        task.cancel()

    release = asyncio.Event()
    asyncio.run(go())
