"""Which class serves which architecture."""

from __future__ import annotations

from gllm.models.base import CausalLM
from gllm.models.chatglm import ChatGLMModel
from gllm.models.config import ModelConfig
from gllm.models.glm import Glm4ForCausalLM, GlmForCausalLM
from gllm.models.llama import LlamaForCausalLM
from gllm.models.mixtral import MixtralForCausalLM
from gllm.models.qwen2 import Qwen2ForCausalLM
from gllm.models.qwen2_moe import Qwen2MoeForCausalLM
from gllm.models.qwen3 import Qwen3ForCausalLM
from gllm.models.qwen3_moe import Qwen3MoeForCausalLM

_MODELS: dict[str, type[CausalLM]] = {
    "LlamaForCausalLM": LlamaForCausalLM,
    "MistralForCausalLM": LlamaForCausalLM,
    "MixtralForCausalLM": MixtralForCausalLM,
    "Qwen2ForCausalLM": Qwen2ForCausalLM,
    "Qwen2MoeForCausalLM": Qwen2MoeForCausalLM,
    "Qwen3ForCausalLM": Qwen3ForCausalLM,
    "Qwen3MoeForCausalLM": Qwen3MoeForCausalLM,
    "GlmForCausalLM": GlmForCausalLM,
    "Glm4ForCausalLM": Glm4ForCausalLM,
    "ChatGLMModel": ChatGLMModel,
    "ChatGLMForConditionalGeneration": ChatGLMModel,
}


def model_class(config: ModelConfig) -> type[CausalLM]:
    """The class for a config; `load_model_config` has already refused what is not listed here."""
    return _MODELS[config.architecture]
