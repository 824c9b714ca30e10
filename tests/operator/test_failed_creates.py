"""Events of StatefulSets that cannot create pods: found, updated, forgotten, also without the right to read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gllm_operator.kube import failed_creates
from gllm_operator.kube.api import ApiError
from gllm_operator.kube.failed_creates import FailedCreate, FailedCreates
from gllm_operator.objects import Object, ObjectKey


def event(name: str, uid: str, time: str, text: str, target: str = "smol-0-bcdfg-1-m") -> Object:
    about = {"kind": "StatefulSet", "namespace": "default", "name": target, "uid": uid}
    metadata = {"name": name, "namespace": "default", "resourceVersion": "5"}
    return {
        "metadata": metadata,
        "involvedObject": about,
        "lastTimestamp": f"2026-01-01T00:00:{time}Z",
        "message": text,
    }


class Server:
    """Refuses the first list, as an API server without the right does."""

    def __init__(self, listed: list[Object], watched: list[tuple[str, Object]]) -> None:
        self.listed = listed
        self.watched = watched
        self.refusals = 1
        self.done = asyncio.Event()

    async def list(self, *_: Any, fields: str) -> tuple[list[Object], str]:
        if self.refusals:
            self.refusals -= 1
            raise ApiError(403, "Forbidden", "events is forbidden")
        assert "reason=FailedCreate" in fields
        return self.listed, "1"

    async def watch(self, *_: Any) -> AsyncIterator[tuple[str, Object]]:
        for one in self.watched:
            yield one
        self.done.set()
        await asyncio.Event().wait()


def follow(listed: list[Object], watched: list[tuple[str, Object]]) -> tuple[FailedCreates, list[ObjectKey]]:
    woken: list[ObjectKey] = []

    async def go() -> FailedCreates:
        server = Server(listed, watched)
        found = FailedCreates(server, woken.append, ())  # type: ignore[arg-type]
        task = asyncio.create_task(found.run())
        await asyncio.wait_for(server.done.wait(), 10)
        task.cancel()
        return found

    return asyncio.run(go()), woken


def test_the_newest_failure_is_known_and_wakes_its_deployment() -> None:
    newer = event("b", "u1", "09", "exceeded quota")
    found, woken = follow(
        [event("a", "u1", "05", "old")], [("ADDED", newer), ("BOOKMARK", {"metadata": newer["metadata"]})]
    )
    failure = found.of("u1")
    assert failure is not None
    assert failure.message == "exceeded quota"
    assert woken == [ObjectKey("default", "smol")] * 2
    assert found.of("u2") is None


def test_events_that_end_and_events_of_others_are_forgotten() -> None:
    one = event("a", "u1", "05", "exceeded quota")
    other = event("c", "u3", "05", "another's", target="web")
    found, woken = follow([one, other], [("DELETED", one)])
    assert found.of("u1") is None
    assert found.of("u3") is None
    assert woken == [ObjectKey("default", "smol")]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_creates, "_MOST_OBJECTS", 3)
    found, _ = follow([event(f"e{number}", f"u{number}", "05", "x") for number in range(5)], [])
    assert [isinstance(found.of(f"u{number}"), FailedCreate) for number in range(5)] == [False, False, True, True, True]
