"""The record of a model family: one for each class of Hugging Face, made in the family's own file.

Gateway, engine, supervisor and operator read a model's config and must not import torch. A family's file is imported
for its config keys too, so its layers are imported inside the function that builds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm.checkpoint.fields import Fields
from gllm.checkpoint.gguf_layout import GGUFLayout
from gllm.models.config import ModelConfig

if TYPE_CHECKING:
    from gllm.layers.context import LayerContext
    from gllm.models.causal_lm import CausalLM

ReadConfig = Callable[[Fields, str], ModelConfig]
"""(config.json, architecture) -> the model's config, without tokens, dtype and sampling defaults, which all families
have in common. Raises ValueError that names the key."""
BuildModel = Callable[[ModelConfig, "LayerContext", range | None], "CausalLM"]
"""(config, context, layers of this stage; None: all) -> the model, declared but not loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    architecture: str
    """The class that config.json names under `architectures`."""
    aliases: tuple[str, ...] = ()
    """Other names of the class."""
    model_type: str
    """Names the architecture in configs that were saved without `architectures`."""
    read_config: ReadConfig
    gguf: GGUFLayout | None
    """None: llama.cpp's converter does not know the family under a name of its own."""
    build_model: BuildModel
