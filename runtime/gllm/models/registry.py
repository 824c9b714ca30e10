"""Which class serves which architecture."""

from __future__ import annotations

from gllm.model_config import ModelConfig
from gllm.models.base import CausalLM
from gllm.models.llama import LlamaForCausalLM
from gllm.models.qwen2 import Qwen2ForCausalLM
from gllm.models.qwen3 import Qwen3ForCausalLM

_MODELS: dict[str, type[CausalLM]] = {
    "LlamaForCausalLM": LlamaForCausalLM,
    "MistralForCausalLM": LlamaForCausalLM,
    "Qwen2ForCausalLM": Qwen2ForCausalLM,
    "Qwen3ForCausalLM": Qwen3ForCausalLM,
}


def model_class(config: ModelConfig) -> type[CausalLM]:
    """The class for a config; `load_model_config` has already refused what is not listed here."""
    return _MODELS[config.architecture]
