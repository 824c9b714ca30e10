"""Weights of a Hugging Face folder, read from its safetensors files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from gllm.checkpoint.shards import INDEX, find_shards, safetensors_header
from gllm.checkpoint.source import TensorInfo, chunked
from gllm.checkpoint.wrong_files import wrong_content

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class SafetensorsSource:
    """See `gllm.checkpoint.source.TensorSource`.

    The library checks each file once and lists its tensors. They are then read at their offsets, a chunk at a time into
    one buffer. Mapped pages would count as the process's memory, and mapping a file again for each of thousands of
    experts takes longer than reading them.
    """

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, TensorInfo] = {}
        self._offsets: dict[str, tuple[Path, int]] = {}
        """File and offset of a tensor's first byte."""
        self._buffer = np.empty(0, np.uint8)
        for path, names in find_shards(folder).items():
            self._add(path, names)
        if "tok_embeddings.weight" in self.tensors:
            raise ValueError(
                f"{next(iter(self._offsets.values()))[0]} is in the layout of the model's authors (Mistral, Meta): "
                "serve the repository's Hugging Face files (model*.safetensors)"
            )

    def _add(self, path: Path, names: set[str] | None) -> None:
        """List the tensors of one file. names: the names that the index lists for it; None: there is no index."""
        if not path.is_file():
            raise ValueError(f"{path} is missing; download the checkpoint again")
        with _opened(path) as file:
            found = set(file.keys())
            header, start = safetensors_header(path)
            for name in found if names is None else found & names:
                if name in self.tensors:
                    raise ValueError(f"{path} and {self._offsets[name][0]} both have a tensor {name}")
                view = file.get_slice(name)
                dtype = view.get_dtype()
                self.tensors[name] = TensorInfo(tuple(view.get_shape()), dtype, dtype in _DTYPES)
                self._offsets[name] = path, start + header[name]["data_offsets"][0]
        for name in sorted((names or set()) - found):
            raise ValueError(f"{path} has no tensor {name}, which {INDEX} says it holds")

    def read(self, name: str, out: torch.Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> None:
        info, dtype = self.tensors[name], _DTYPES[self.tensors[name].dtype]
        path, offset = self._offsets[name]
        row_bytes = math.prod(info.shape[1:]) * dtype.itemsize
        try:
            with open(path, "rb", buffering=0) as file:
                for source, target in chunked(rows, info.shape[0], row_bytes):
                    raw = self._buffer_of((source.stop - source.start) * row_bytes)
                    file.seek(offset + source.start * row_bytes)
                    _read_into(file, raw.data)
                    piece = torch.from_numpy(raw).view(dtype).view(-1, *info.shape[1:])
                    out[target] = (piece if piece.dim() == 1 else piece[:, columns]).to(out.device)
        except OSError as error:
            raise ValueError(
                f"{path}: tensor {name} cannot be read, the file is truncated or corrupt: {error}"
            ) from None

    def _buffer_of(self, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if len(self._buffer) < size:
            self._buffer = np.empty(0, np.uint8)  # frees the old buffer first
            self._buffer = np.empty(size, np.uint8)
        return self._buffer[:size]


def _read_into(file: Any, view: memoryview) -> None:
    """Fill the view; one read may return less, for example on a network file system."""
    while len(view):
        count = file.readinto(view)
        if not count:
            raise OSError(f"it ends {len(view)} bytes too early")
        view = view[count:]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        known = wrong_content(path)
        problem = f", {known}" if known else f", the file is truncated or corrupt: {error}"
        raise ValueError(f"{path} cannot be read{problem}") from None
