"""How the client of several engines finds them: names that fail, come and go, over real sockets without engines."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fixtures.ports import free_port
from gllm.engine.client import engines
from gllm.engine.client.engines import RemoteEngines
from gllm.wire.curve import make_keys


def remote(*places: tuple[str, int]) -> RemoteEngines:
    return RemoteEngines(places, make_keys(), model="", wait_seconds=1.0)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_RESOLVE_SECONDS", 0.02)
    monkeypatch.setattr(engines, "_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(engines, "_GREET_SECONDS", 0.05)


def test_a_name_that_is_none_does_not_end_the_search() -> None:
    """IDNA raises UnicodeError for an empty label, and for one that is too long."""
    port = free_port()

    async def run() -> None:
        client = remote(("a..b", 1), ("x" * 64, 1), ("127.0.0.1", port))
        client.start()
        try:
            await until(lambda: f"127.0.0.1:{port}" in client.known())
            await until(lambda: "not a host name" in client.problem())
            assert "a..b:1: not a host name" in client.problem()
        finally:
            await client.close()

    asyncio.run(run())


def test_addresses_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a cluster, where each new pod has a new address."""
    current = ["127.0.0.1"]

    async def addresses(host: str, port: int) -> set[tuple[str, int]]:
        return {(current[0], port)}

    monkeypatch.setattr(engines, "_addresses", addresses)
    port = free_port()

    async def run() -> None:
        client = remote(("engines", port))
        client.start()
        try:
            for number in range(1, 6):
                current[0] = f"127.0.0.{number}"
                await until(lambda: client.known() == {f"{current[0]}:{port}": None})
            await until(lambda: list(client._followers) == [("127.0.0.5", port)])
            await until(lambda: "127.0.0.5" in client.problem())
            assert "127.0.0.1:" not in client.problem()
        finally:
            await client.close()

    asyncio.run(run())
