"""Weights of a GGUF file under Hugging Face names, dequantized as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from gllm.checkpoint.gguf_file import GGUFFile, GGUFTensor
from gllm.checkpoint.gguf_layout import GGUFLayout, named
from gllm.checkpoint.source import TensorInfo, chunked

SUPPORTED_TYPES = frozenset(
    GGMLQuantizationType[name]
    for name in (
        *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
        *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
        *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
    )
    if name in GGMLQuantizationType.__members__  # older versions of the package know fewer
)
"""The types that the gguf package dequantizes."""


class GGUFSource:
    """See `gllm.checkpoint.source.TensorSource`."""

    def __init__(self, path: Path, layout: GGUFLayout) -> None:
        self._file = GGUFFile(path)
        self._layout = layout
        self._tensors: dict[str, GGUFTensor] = {}
        for tensor in self._file.tensors.values():
            self._tensors.update(named(tensor, layout))
        self.tensors = {
            name: TensorInfo(tensor.shape, tensor.type.name, tensor.type in SUPPORTED_TYPES)
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str, out: torch.Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> None:
        tensor = self._tensors[name]
        raw = self._file.raw(tensor)
        order = self._order(name, tensor)
        if len(tensor.shape) == 1:
            # A vector is one row of blocks in the file; its elements are the rows of the result.
            values = dequantize(np.array(raw), tensor.type)[0][order]
            out.copy_(torch.from_numpy(values)[rows])
            return
        for source, target in chunked(rows, tensor.shape[0], tensor.shape[-1] * torch.float32.itemsize):
            values = dequantize(raw[order[source]], tensor.type)
            out[target] = torch.from_numpy(values)[:, columns].to(out.device)

    def _order(self, name: str, tensor: GGUFTensor) -> Any:
        """Return the row of the file for each row of the result."""
        num_rows = tensor.shape[0]
        heads = self._interleaved_heads(name)
        if heads == 0:
            return np.arange(num_rows)
        return np.arange(num_rows).reshape(heads, num_rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)

    def _interleaved_heads(self, name: str) -> int:
        """Return the number of heads in a tensor with interleaved rows (`GGUFLayout.interleaves_heads`), else 0."""
        if not self._layout.interleaves_heads:
            return 0
        metadata, prefix = self._file.metadata, f"{self._layout.architecture}.attention"
        if ".q_proj." in name:
            return int(metadata[f"{prefix}.head_count"])
        if ".k_proj." in name:
            return int(metadata.get(f"{prefix}.head_count_kv", metadata[f"{prefix}.head_count"]))
        return 0
