"""The config of a GGUF file, from its header."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from gguf.constants import GGMLQuantizationType

from gllm.checkpoint.fields import MAX_EXPERTS, MAX_LAYERS, Fields
from gllm.checkpoint.gguf_file import GGUFFile
from gllm.checkpoint.gguf_layout import GGUFLayout
from gllm.config import Dtype
from gllm.models.config import ModelConfig, MoEConfig
from gllm.models.config_files.common import check_heads
from gllm.models.config_files.context_length import limited_context
from gllm.models.config_files.gguf_rope import read_gguf_rope
from gllm.models.family import Family
from gllm.sampling_params import DEFAULTED_FIELDS
from gllm.text.vocabulary.eos import gguf_eos_ids

_SAMPLING_NAMES = {"temperature": "temp", "repetition_penalty": "penalty_repeat"}
"""Our names -> the names in general.sampling.*, where they differ."""


def read_gguf_config(path: Path, families: Sequence[Family]) -> ModelConfig:
    """Return the config of a GGUF file. Raises ValueError, which names the file and the key."""
    file = GGUFFile(path)
    fields = Fields(file.metadata, str(path))
    embedding = file.tensors.get("token_embd.weight")
    family, layout = _find_family(file, fields, families)
    name = layout.architecture
    if embedding is None:
        raise ValueError(f"{path} has no tensor token_embd.weight")
    num_heads = fields.positive_int(f"{name}.attention.head_count")
    hidden_size = fields.positive_int(f"{name}.embedding_length")
    head_dim = fields.positive_int(f"{name}.attention.key_length", hidden_size // num_heads)
    rotated = fields.positive_int(f"{name}.rope.dimension_count", head_dim)
    if rotated != head_dim and not layout.rotates_part:
        raise fields.error(f"{name}.rope.dimension_count", f"differs from the head's {head_dim} dimensions")
    rope = read_gguf_rope(file, fields, name, head_dim)
    config = ModelConfig(
        architecture=family.architecture,
        hidden_size=hidden_size,
        intermediate_size=fields.positive_int(f"{name}.feed_forward_length"),
        num_layers=fields.positive_int(f"{name}.block_count", most=MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=fields.positive_int(f"{name}.attention.head_count_kv", num_heads),
        head_dim=head_dim,
        vocab_size=embedding.shape[0],
        rms_norm_eps=fields.positive_float(f"{name}.attention.layer_norm_rms_epsilon"),
        rope=msgspec.structs.replace(rope, partial_factor=rotated / head_dim),
        tie_word_embeddings="output.weight" not in file.tensors,
        attention_bias="blk.0.attn_q.bias" in file.tensors or "blk.0.attn_qkv.bias" in file.tensors,
        attention_out_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
        moe=_moe(file, fields, layout),
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
    return check_heads(config, str(path))


def _find_family(file: GGUFFile, fields: Fields, families: Sequence[Family]) -> tuple[Family, GGUFLayout]:
    """Return the file's family and layout. Raises ValueError, which lists the supported architectures."""
    name = fields.get("general.architecture")
    layouts = [(family, family.gguf) for family in families if family.gguf is not None]
    # `llama` is also the architecture of Mixtral's files: layouts that a tensor identifies come first.
    for family, layout in sorted(layouts, key=lambda item: not item[1].only_with):
        if layout.architecture == name and (not layout.only_with or layout.only_with in file.tensors):
            return family, layout
    supported = ", ".join(dict.fromkeys(layout.architecture for _, layout in layouts))
    raise fields.error("general.architecture", f"{name!r} is not supported; supported are {supported}")


def _window(fields: Fields, name: str) -> int | None:
    key = f"{name}.attention.sliding_window"
    return fields.positive_int(key) if fields.get(key, 0) else None


def _moe(file: GGUFFile, fields: Fields, layout: GGUFLayout) -> MoEConfig | None:
    """Return the experts, with their sizes from the first layer's tensors; None if the model has none."""
    name = layout.architecture
    if not fields.get(f"{name}.expert_count", 0):
        return None
    num_experts = fields.positive_int(f"{name}.expert_count", most=MAX_EXPERTS)
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
        renormalize=layout.renormalizes,
        shared_intermediate_size=0 if shared is None else shared.shape[0],
    )


def _dtype(kind: GGMLQuantizationType) -> Dtype:
    if kind == GGMLQuantizationType.F32:
        return "float32"
    return "float16" if kind == GGMLQuantizationType.F16 else "bfloat16"


def _sampling_defaults(fields: Fields) -> dict[str, float | int]:
    defaults: dict[str, float | int] = {}
    for ours in DEFAULTED_FIELDS:
        value = fields.get(f"general.sampling.{_SAMPLING_NAMES.get(ours, ours)}")
        if isinstance(value, float):
            # The header stores float32: 0.6 comes back as 0.6000000238.
            defaults[ours] = round(value, 6)
        elif isinstance(value, int):
            defaults[ours] = value
    return defaults
