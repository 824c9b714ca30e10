"""Reads a model's shape from a Hugging Face folder or a GGUF file. No torch, no transformers."""

from __future__ import annotations

from pathlib import Path

from gllm.model_config_loader.gguf import load_gguf_config
from gllm.model_config_loader.huggingface import load_huggingface_config
from gllm.models.config import ModelConfig


def load_model_config(path: Path | str) -> ModelConfig:
    """The config of the model at `path`. Raises ValueError with one line that names what is wrong or unsupported."""
    path = Path(path)
    if path.is_dir():
        return load_huggingface_config(path)
    if path.is_file():
        return load_gguf_config(path)
    raise ValueError(
        f"model {str(path)!r} does not exist: give a Hugging Face folder or a GGUF file "
        "(download one with: gllm fetch ORG/NAME FOLDER)"
    )
