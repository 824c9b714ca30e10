"""Where weights come from, behind one interface with Hugging Face tensor names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from gllm.checkpoint.gguf_layout import GGUFLayout
from gllm.checkpoint.gguf_source import GGUFSource
from gllm.checkpoint.safetensors_source import SafetensorsSource
from gllm.checkpoint.tensor_info import TensorInfo


class TensorSource(Protocol):
    """A checkpoint whose tensors can be listed without reading them, and read piece by piece."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by its Hugging Face name."""

    def read(self, name: str, out: torch.Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> None:
        """Fill `out` with tensor[rows, columns] (tensor[rows] for a vector), converted to its dtype and device.

        Only a chunk of the piece is in memory at any time beside `out`. Slices have step 1.
        Raises ValueError naming the file and the tensor if it cannot be read.
        """


def open_checkpoint(path: Path | str, gguf: GGUFLayout | None) -> TensorSource:
    """Open a Hugging Face folder or a GGUF file. Raises ValueError if it is neither, or damaged.

    gguf: how the model's family is stored in GGUF files; needed for those only.
    """
    path = Path(path)
    if path.is_dir():
        return SafetensorsSource(path)
    if gguf is None:
        raise ValueError(f"{path} is a GGUF file, and the model's family has no GGUF layout")
    return GGUFSource(path, gguf)
