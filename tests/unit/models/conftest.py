"""Small models, each written once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.tiny_models import write_hf


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny_model(variant) -> folder; treat it as read-only."""
    folders: dict[str, Path] = {}

    def get(variant: str) -> Path:
        if variant not in folders:
            folders[variant] = write_hf(variant, tmp_path_factory.mktemp(variant))
        return folders[variant]

    return get
