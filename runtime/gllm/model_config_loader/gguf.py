"""The same from a GGUF header."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from gguf.constants import GGMLQuantizationType

from gllm.checkpoint.gguf_file import GGUFFile
from gllm.model_config_loader.context import limited_context
from gllm.model_config_loader.fields import MAX_LAYERS, MOST_EXPERTS, Fields, check_shape
from gllm.model_config_loader.gguf_rope import load_gguf_rope
from gllm.models.config import ModelConfig, MoEConfig
from gllm.text.vocabulary.eos import gguf_eos_ids

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen2moe": "Qwen2MoeForCausalLM",
    "qwen3moe": "Qwen3MoeForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "chatglm": "GlmForCausalLM",
}
_TURN_PARTS = ("glm4", "chatglm")
"""Architectures whose rope turns a part of each head."""
_SAMPLING_FIELDS = {
    "temp": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
"""general.sampling.* -> our names."""


def load_gguf_config(path: Path) -> ModelConfig:
    """Raises ValueError naming the file and the key."""
    file = GGUFFile(path)
    fields = Fields(file.metadata, str(path))
    name = fields.get("general.architecture")
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        supported = ", ".join(_ARCHITECTURES)
        raise fields.error("general.architecture", f"{name!r} is not supported; supported are {supported}")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ValueError(f"{path} has no tensor token_embd.weight")
    num_heads = fields.positive_int(f"{name}.attention.head_count")
    hidden_size = fields.positive_int(f"{name}.embedding_length")
    head_dim = fields.positive_int(f"{name}.attention.key_length", hidden_size // num_heads)
    turned = fields.positive_int(f"{name}.rope.dimension_count", head_dim)
    if turned != head_dim and name not in _TURN_PARTS:
        raise fields.error(f"{name}.rope.dimension_count", f"differs from the head's {head_dim} dimensions")
    moe = _moe(file, fields, name)
    rope = load_gguf_rope(file, fields, name, head_dim)
    config = ModelConfig(
        architecture=_architecture(file, name, moe),
        hidden_size=hidden_size,
        intermediate_size=fields.positive_int(f"{name}.feed_forward_length"),
        num_layers=fields.positive_int(f"{name}.block_count", most=MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=fields.positive_int(f"{name}.attention.head_count_kv", num_heads),
        head_dim=head_dim,
        vocab_size=embedding.shape[0],
        rms_norm_eps=fields.positive_float(f"{name}.attention.layer_norm_rms_epsilon"),
        rope=msgspec.structs.replace(rope, partial_factor=turned / head_dim),
        tie_word_embeddings="output.weight" not in file.tensors,
        attention_bias="blk.0.attn_q.bias" in file.tensors or "blk.0.attn_qkv.bias" in file.tensors,
        attention_out_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in file.tensors,
        moe=moe,
        **limited_context(
            rope,
            fields.positive_int(f"{name}.context_length"),
            f"{name}.attention.sliding_window",
            _window(fields, name),
        ),
        dtype=_dtype(embedding.type),
        eos_token_ids=gguf_eos_ids(file.metadata),
        bos_token_id=next(iter(fields.token_ids("tokenizer.ggml.bos_token_id")), None),
        generation_defaults=_sampling_defaults(fields),
    )
    return check_shape(config, str(path))


def _architecture(file: GGUFFile, name: str, moe: MoEConfig | None) -> str:
    """Mixtral's files call themselves llama; those of GLM-4-9B have either of its layouts."""
    if moe is not None and name == "llama":
        return "MixtralForCausalLM"
    if name == "chatglm" and "blk.0.attn_qkv.weight" in file.tensors:
        return "ChatGLMModel"
    return _ARCHITECTURES[name]


def _window(fields: Fields, name: str) -> int | None:
    key = f"{name}.attention.sliding_window"
    return fields.positive_int(key) if fields.get(key, 0) else None


def _moe(file: GGUFFile, fields: Fields, name: str) -> MoEConfig | None:
    """The experts, whose sizes are those of the first layer's tensors. None where there are none."""
    if not fields.get(f"{name}.expert_count", 0):
        return None
    num_experts = fields.positive_int(f"{name}.expert_count", most=MOST_EXPERTS)
    experts = file.tensors.get("blk.0.ffn_gate_exps.weight")
    if experts is None or len(experts.shape) != 3 or experts.shape[0] != num_experts:
        raise ValueError(
            f"{file.path} has no tensor blk.0.ffn_gate_exps.weight of {num_experts} experts: convert it again with a "
            "converter of after April 2024"
        )
    shared = file.tensors.get("blk.0.ffn_gate_shexp.weight")
    return MoEConfig(
        num_experts=num_experts,
        experts_per_token=fields.positive_int(f"{name}.expert_used_count", most=num_experts),
        intermediate_size=experts.shape[1],
        # Not in the file: llama.cpp knows it by the architecture.
        renormalize=name != "qwen2moe",
        shared_intermediate_size=0 if shared is None else shared.shape[0],
    )


def _dtype(kind: GGMLQuantizationType) -> Literal["float32", "bfloat16", "float16"]:
    if kind == GGMLQuantizationType.F32:
        return "float32"
    return "float16" if kind == GGMLQuantizationType.F16 else "bfloat16"


def _sampling_defaults(fields: Fields) -> dict[str, float | int]:
    defaults: dict[str, float | int] = {}
    for theirs, ours in _SAMPLING_FIELDS.items():
        value = fields.get(f"general.sampling.{theirs}")
        if isinstance(value, float):
            # Stored as float32: 0.6 comes back as 0.6000000238.
            defaults[ours] = round(value, 6)
        elif isinstance(value, int):
            defaults[ours] = value
    return defaults
