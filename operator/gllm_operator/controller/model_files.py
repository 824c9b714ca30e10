"""Reads the config of models that the operator can access: file:// sources on a volume that it mounts too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gllm.models.config import ModelConfig


class ModelReader:
    """Caches each config until its file changes, because every pass asks for it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, ModelConfig | None]] = {}

    def __call__(self, source: str) -> ModelConfig | None:
        """None if the model is elsewhere or cannot be read; the runtime then reports why."""
        if not source.startswith("file://"):
            return None
        path = Path(source.removeprefix("file://"))
        file = path / "config.json" if path.is_dir() else path
        try:
            changed = file.stat().st_mtime
        except OSError:
            return None
        known = self._known.get(source)
        if known is None or known[0] != changed:
            known = self._known[source] = (changed, _load(path))
        return known[1]


def _load(path: Path) -> ModelConfig | None:
    from gllm.models.families import load_model_config

    try:
        return load_model_config(path)
    except (ValueError, OSError):
        return None
