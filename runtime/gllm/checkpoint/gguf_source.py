"""Weights of a GGUF file under Hugging Face names, dequantized as they are read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from gllm.checkpoint.chunks import chunked
from gllm.checkpoint.gguf_file import GGUFFile, GGUFTensor
from gllm.checkpoint.tensor_info import TensorInfo

SUPPORTED_TYPES = frozenset(
    GGMLQuantizationType[name]
    for name in (
        *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
        *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
        *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
    )
    if name in GGMLQuantizationType.__members__  # older versions of the package know fewer
)
"""What the gguf package dequantizes."""

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
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
_MIXTRAL = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
    "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
}
_QWEN = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_TOP = re.compile(r"(\w+)\.(weight|bias)")


class GGUFSource:
    """See `gllm.checkpoint.source.TensorSource`."""

    def __init__(self, path: Path) -> None:
        self._file = GGUFFile(path)
        self._tensors: dict[str, GGUFTensor] = {}
        expert_names = _MIXTRAL if self._file.metadata.get("general.architecture") == "llama" else _QWEN
        for tensor in self._file.tensors.values():
            for name, piece in named_experts(tensor, expert_names):
                self._tensors[name] = piece
        self.tensors = {
            name: TensorInfo(tensor.shape, tensor.type.name, tensor.type in SUPPORTED_TYPES)
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str, out: torch.Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> None:
        tensor = self._tensors[name]
        raw = self._file.raw(tensor)
        order = self._order(name, tensor)
        if len(tensor.shape) == 1:
            # One row of blocks in the file, while its elements are the rows to the caller.
            values = dequantize(np.array(raw), tensor.type)[0][order]
            out.copy_(torch.from_numpy(values)[rows])
            return
        for source, target in chunked(rows, tensor.shape[0], tensor.shape[-1] * torch.float32.itemsize):
            values = dequantize(raw[order[source]], tensor.type)
            out[target] = torch.from_numpy(values)[:, columns].to(out.device)

    def _order(self, name: str, tensor: GGUFTensor) -> Any:
        """Row of the file for each row of the result.

        llama.cpp's converter interleaves the two rotary halves of each query and key head of the llama architecture:
        row (head, i, half) of the file is row (head, half, i) of the checkpoint.
        """
        num_rows = tensor.shape[0]
        heads = self._rotary_heads(name)
        if heads == 0:
            return np.arange(num_rows)
        return np.arange(num_rows).reshape(heads, num_rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)

    def _rotary_heads(self, name: str) -> int:
        """Heads of a tensor whose rows llama.cpp reorders; 0 if it does not."""
        metadata = self._file.metadata
        if metadata.get("general.architecture") != "llama":
            return 0
        if ".q_proj." in name:
            return int(metadata["llama.attention.head_count"])
        if ".k_proj." in name:
            return int(metadata.get("llama.attention.head_count_kv", metadata["llama.attention.head_count"]))
        return 0


def named_experts(tensor: GGUFTensor, names: Mapping[str, str]) -> Iterator[tuple[str, GGUFTensor]]:
    """A tensor of the file under its checkpoint name; what holds all experts, one after another, as a tensor each."""
    match = _LAYER.fullmatch(tensor.name)
    if match is None or match[2] not in names:
        yield huggingface_name(tensor.name), tensor
        return
    name = f"model.layers.{match[1]}.{names[match[2]]}.{match[3]}"
    if match[2].endswith("_exps") and len(tensor.shape) == 3:
        size = tensor.num_bytes // tensor.shape[0]
        for expert in range(tensor.shape[0]):
            at = tensor.offset + expert * size
            yield name.format(expert), replace(tensor, shape=tensor.shape[1:], offset=at, num_bytes=size)
    elif match[2] == "ffn_gate_inp_shexp" and len(tensor.shape) == 1:
        yield name, replace(tensor, shape=(1, *tensor.shape))
    else:
        yield name, tensor


def huggingface_name(name: str) -> str:
    """The checkpoint name of a GGUF tensor; names that have none stay as they are."""
    if match := _LAYER.fullmatch(name):
        layer, part, kind = match.groups()
        return f"model.layers.{layer}.{_NAMES[part]}.{kind}" if part in _NAMES else name
    if match := _TOP.fullmatch(name):
        part, kind = match.groups()
        return f"{_NAMES[part]}.{kind}" if part in _NAMES else name
    return name
