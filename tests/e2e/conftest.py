"""One cluster for all tests of this folder, which run in the order of their files and lines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.cluster import Cluster, Missing, some_cluster
from e2e.kube import Kube


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    print(flush=True)
    try:
        with some_cluster() as found:
            yield found
    except Missing as problem:
        pytest.exit(str(problem), returncode=2)


@pytest.fixture(scope="session")
def kube(cluster: Cluster) -> Kube:
    return Kube(cluster)
