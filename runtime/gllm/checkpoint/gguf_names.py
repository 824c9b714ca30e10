"""Hugging Face names of a GGUF file's tensors, which llama.cpp's converter renames."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from gllm.checkpoint.gguf_file import GGUFTensor

_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_TOP = re.compile(r"(\w+)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class Names:
    """Of one architecture."""

    parts: Mapping[str, str]
    """GGUF's name of a layer's part -> ours, with {} for the number of an expert."""
    layer: str = "model.layers"
    top: Mapping[str, str] | None = None
    """Of what is outside the layers; None: Hugging Face's usual names."""


_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LLAMA = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_MIXTRAL = _LLAMA | {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
    "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
}
_QWEN = _LLAMA | {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_GLM = _LLAMA | {
    "ffn_up": "mlp.gate_up_proj",
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}
_CHATGLM = Names(
    {
        "attn_norm": "input_layernorm",
        "attn_qkv": "self_attention.query_key_value",
        "attn_output": "self_attention.dense",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    },
    "transformer.encoder.layers",
    {
        "token_embd": "transformer.embedding.word_embeddings",
        "output_norm": "transformer.encoder.final_layernorm",
        "output": "transformer.output_layer",
    },
)


def names_of(architecture: object, tensors: Collection[str]) -> Names:
    """For a GGUF architecture. Files named chatglm hold either layout of GLM-4-9B."""
    if architecture == "chatglm" and "blk.0.attn_qkv.weight" in tensors:
        return _CHATGLM
    return Names(_MIXTRAL if architecture == "llama" else _GLM if architecture in ("glm4", "chatglm") else _QWEN)


def named(tensor: GGUFTensor, names: Names) -> Iterator[tuple[str, GGUFTensor]]:
    """A tensor under its checkpoint name (its own, if it has none); one that holds all experts as a tensor each."""
    if match := _TOP.fullmatch(tensor.name):
        top = (names.top or _TOP_NAMES).get(match[1])
        yield tensor.name if top is None else f"{top}.{match[2]}", tensor
        return
    match = _LAYER.fullmatch(tensor.name)
    if match is None or match[2] not in names.parts:
        yield tensor.name, tensor
        return
    name = f"{names.layer}.{match[1]}.{names.parts[match[2]]}.{match[3]}"
    if match[2].endswith("_exps") and len(tensor.shape) == 3:
        size = tensor.num_bytes // tensor.shape[0]
        for expert in range(tensor.shape[0]):
            at = tensor.offset + expert * size
            yield name.format(expert), replace(tensor, shape=tensor.shape[1:], offset=at, num_bytes=size)
    elif match[2] == "ffn_gate_inp_shexp" and len(tensor.shape) == 1:
        yield name, replace(tensor, shape=(1, *tensor.shape))
    else:
        yield name, tensor
