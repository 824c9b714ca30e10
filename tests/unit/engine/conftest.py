"""Fixtures of the engine's tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture
def run_dir() -> Iterator[str]:
    """Yield a folder with a short path, because the path of a Unix socket has at most about 100 bytes."""
    path = tempfile.mkdtemp(prefix="gllm-")
    yield path
    shutil.rmtree(path)
