"""What a config.json leaves unsaid, family by family: the defaults of transformers' config classes."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Family:
    model_type: str
    """Names the architecture in configs that were saved without `architectures`."""
    max_position: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    num_kv_heads: int | None = None
    """None: as many as there are heads."""
    head_dim: int | None = None
    """None: hidden_size / num_attention_heads."""
    partial_rotary_factor: float | None = None
    """None: the family turns whole heads, and another factor is refused."""
    qkv_bias_key: str = "attention_bias"
    qkv_bias: bool = False
    """Its default; where the key is empty, the value."""
    out_bias: bool = False
    """Whether the output product has a bias where queries, keys and values have."""
    mlp_bias: bool = False
    """Whether the family knows the key mlp_bias."""
    window: int | None = None
    """Sliding window where the key is missing; only for families whose key alone decides."""
    window_key_decides: bool = False
    windows_after_max_window_layers: bool = False
    """Whether only layers from number max_window_layers on have a window."""
    num_experts: int = 0
    """Default number of experts; 0: the family has none."""
    experts_per_token: int = 0
    always_renormalizes: bool = False
    """Whether the weights of a token's experts add up to 1 whatever the config says, which Mixtral's do."""
    shared_intermediate_size: int = 0


_GLM = Family(
    "glm",
    max_position=131072,
    rms_norm_eps=1.5625e-7,
    num_kv_heads=2,
    head_dim=128,
    partial_rotary_factor=0.5,
    qkv_bias=True,
)

FAMILIES = {
    "LlamaForCausalLM": Family("llama", max_position=2048, out_bias=True, mlp_bias=True),
    "MistralForCausalLM": Family("mistral", max_position=131072, out_bias=True, window=4096, window_key_decides=True),
    "MixtralForCausalLM": Family(
        "mixtral",
        max_position=131072,
        rms_norm_eps=1e-5,
        rope_theta=1e6,
        qkv_bias_key="",
        window_key_decides=True,
        num_experts=8,
        experts_per_token=2,
        always_renormalizes=True,
    ),
    "Qwen2ForCausalLM": Family("qwen2", qkv_bias_key="", qkv_bias=True, windows_after_max_window_layers=True),
    "Qwen2MoeForCausalLM": Family(
        "qwen2_moe",
        qkv_bias_key="qkv_bias",
        qkv_bias=True,
        num_experts=60,
        experts_per_token=4,
        shared_intermediate_size=5632,
    ),
    "Qwen3ForCausalLM": Family("qwen3", head_dim=128, out_bias=True, windows_after_max_window_layers=True),
    "Qwen3MoeForCausalLM": Family("qwen3_moe", out_bias=True, num_experts=128, experts_per_token=8),
    "GlmForCausalLM": _GLM,
    "Glm4ForCausalLM": replace(_GLM, model_type="glm4"),
}
"""Architectures in transformers' own layout."""

CHATGLM_ARCHITECTURES = ("ChatGLMModel", "ChatGLMForConditionalGeneration")
"""The original layout of ChatGLM2, ChatGLM3 and GLM-4 (`chatglm.py`)."""

SUPPORTED_ARCHITECTURES = (*FAMILIES, *CHATGLM_ARCHITECTURES)

MODEL_TYPES = {family.model_type: name for name, family in FAMILIES.items()} | {"chatglm": "ChatGLMModel"}
