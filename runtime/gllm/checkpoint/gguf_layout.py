"""The names of a family's tensors in its checkpoints, and how llama.cpp's converter changes names and order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from gllm.checkpoint.gguf_file import GGUFTensor

_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_TOP = re.compile(r"(\w+)\.(weight|bias)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Checkpoint names of the weights outside the layers."""

    embedding: str
    norm: str
    head: str


NAMES = Names(embedding="model.embed_tokens", norm="model.norm", head="lm_head")
"""The names in transformers' checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFLayout:
    """The layout of a family's GGUF files. Names are without `.weight` and `.bias`."""

    architecture: str
    """`general.architecture` of the header."""
    only_with: str = ""
    """A tensor that no other family of the same architecture has; empty: the architecture is enough."""
    names: Names = NAMES
    layer: str
    """The checkpoint's name of a layer, without its number."""
    parts: Mapping[str, str]
    """Weights of a layer: GGUF's name -> the checkpoint's, with {} for the number of an expert."""
    rotates_part: bool = False
    """Whether the header may say that rope rotates a part of each head."""
    interleaves_heads: bool = False
    """Whether the rows of each query and key head alternate between its two rotary halves: row (head, i, half) of the
    file is row (head, half, i) of the checkpoint."""
    renormalizes: bool = True
    """Whether the weights of a token's experts are scaled to a sum of 1; not in the header."""


def named(tensor: GGUFTensor, layout: GGUFLayout) -> Iterator[tuple[str, GGUFTensor]]:
    """Yield the tensor under its checkpoint name, or its own if it has none; stacked experts become one tensor each."""
    if match := _TOP.fullmatch(tensor.name):
        names = {"token_embd": layout.names.embedding, "output_norm": layout.names.norm, "output": layout.names.head}
        top = names.get(match[1])
        yield tensor.name if top is None else f"{top}.{match[2]}", tensor
        return
    match = _LAYER.fullmatch(tensor.name)
    if match is None or match[2] not in layout.parts:
        yield tensor.name, tensor
        return
    name = f"{layout.layer}.{match[1]}.{layout.parts[match[2]]}.{match[3]}"
    if match[2].endswith("_exps") and len(tensor.shape) == 3:
        size = tensor.num_bytes // tensor.shape[0]
        for expert in range(tensor.shape[0]):
            offset = tensor.offset + expert * size
            yield name.format(expert), replace(tensor, shape=tensor.shape[1:], offset=offset, num_bytes=size)
    elif match[2] == "ffn_gate_inp_shexp" and len(tensor.shape) == 1:
        yield name, replace(tensor, shape=(1, *tensor.shape))
    else:
        yield name, tensor
