"""Tests in this folder need a real API server; they are skipped without one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from operator_stage import Operators, Play, Stage, stage

from fixtures.api_server import api_server, binaries, install_crd
from gllm_operator.kube.client import ApiClient
from gllm_operator.kube.login import Login


@pytest.fixture(scope="session")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    folder = binaries()
    if folder is None:
        pytest.skip("no kube-apiserver here: set KUBEBUILDER_ASSETS to the folder of etcd and kube-apiserver")
    with api_server(folder, tmp_path_factory.mktemp("kubernetes")) as found:
        asyncio.run(_install(found))
        yield found


async def _install(login: Login) -> None:
    async with ApiClient(login) as api:
        await install_crd(api)


@pytest.fixture
def namespace(login: Login) -> str:
    name = f"test-{uuid.uuid4().hex[:8]}"

    async def make() -> None:
        async with ApiClient(login) as api:
            body = {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
            }
            await api._call("POST", "/api/v1/namespaces", body)

    asyncio.run(make())
    return name


@pytest.fixture
def talk(login: Login) -> Callable[[Callable[[ApiClient], Coroutine[Any, Any, Any]]], Any]:
    """Run a coroutine function with a client."""

    def run(work: Callable[[ApiClient], Coroutine[Any, Any, Any]]) -> Any:
        async def inside() -> Any:
            async with ApiClient(login) as api:
                return await work(api)

        return asyncio.run(inside())

    return run


@pytest.fixture
def operators(login: Login, tmp_path: Path, namespace: str) -> Iterator[Operators]:
    found = Operators(login, tmp_path, namespace)
    yield found
    found.end()


@pytest.fixture
def play(login: Login, namespace: str) -> Play:
    def run(work: Callable[[Stage], Awaitable[None]]) -> None:
        async def inside() -> None:
            async with stage(login, namespace) as found:
                await work(found)

        asyncio.run(inside())

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "operator/cluster" in str(item.path):
            item.add_marker(pytest.mark.cluster)
