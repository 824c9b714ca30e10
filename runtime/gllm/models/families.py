"""The table of families. With it, this module reads the config of a model and builds the model. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gllm.models import chatglm, glm, llama
from gllm.models.config import ModelConfig
from gllm.models.config_files.gguf_config import read_gguf_config
from gllm.models.config_files.hf_config import read_hf_config
from gllm.models.family import Family

if TYPE_CHECKING:
    from gllm.layers.context import LayerContext
    from gllm.models.causal_lm import CausalLM

FAMILIES: tuple[Family, ...] = (*llama.FAMILIES, *glm.FAMILIES, *chatglm.FAMILIES)

_BY_ARCHITECTURE = {family.architecture: family for family in FAMILIES}


def load_model_config(path: Path | str) -> ModelConfig:
    """Return the config of the model at `path`. Raises ValueError, in one line that names the unsupported part."""
    path = Path(path)
    if path.is_dir():
        return read_hf_config(path, FAMILIES)
    if path.is_file():
        return read_gguf_config(path, FAMILIES)
    raise ValueError(
        f"model {str(path)!r} does not exist: give a Hugging Face folder or a GGUF file "
        "(download one with: gllm fetch ORG/NAME FOLDER)"
    )


def family_of(config: ModelConfig) -> Family:
    """Return the family of a config that `load_model_config` has returned."""
    return _BY_ARCHITECTURE[config.architecture]


def build_model(config: ModelConfig, context: LayerContext, layers: range | None = None) -> CausalLM:
    """Return the layers of one stage (None: all layers), declared but not loaded."""
    return family_of(config).build_model(config, context, layers)
