"""Weights of a Hugging Face folder: one safetensors file, or shards listed by an index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gllm.checkpoint.chunks import chunked
from gllm.checkpoint.tensor_info import TensorInfo

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class SafetensorsSource:
    """See `gllm.checkpoint.source.TensorSource`.

    A file is mapped only while one of its tensors is read: the pages of a map count as the process's memory.
    """

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, TensorInfo] = {}
        self._files: dict[str, Path] = {}
        for path, names in _shards(folder).items():
            self._add(path, names)

    def _add(self, path: Path, names: set[str] | None) -> None:
        """List the tensors of one file; `names` are those that the index promises."""
        if not path.is_file():
            raise ValueError(f"{path} is missing; download the checkpoint again")
        with _opened(path) as file:
            found = set(file.keys())
            for name in found if names is None else found & names:
                view = file.get_slice(name)
                dtype = view.get_dtype()
                self.tensors[name] = TensorInfo(tuple(view.get_shape()), dtype, dtype in _DTYPE_BYTES)
                self._files[name] = path
        for name in sorted((names or set()) - found):
            raise ValueError(f"{path} has no tensor {name}, which {_INDEX} says it holds")

    def read(self, name: str, out: torch.Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> None:
        info = self.tensors[name]
        with _opened(self._files[name], name) as file:
            view = file.get_slice(name)
            if len(info.shape) == 1:
                out.copy_(view[rows])
                return
            for source, target in chunked(rows, info.shape[0], info.shape[1] * _DTYPE_BYTES[info.dtype]):
                out[target] = view[source, columns].to(out.device)


def _shards(folder: Path) -> dict[Path, set[str] | None]:
    """Files to open, with the tensors each must hold (None: whatever it has)."""
    index = folder / _INDEX
    if index.is_file():
        try:
            weight_map = json.loads(index.read_bytes())["weight_map"]
            shards: dict[Path, set[str] | None] = {}
            for name, file in weight_map.items():
                if Path(file).name != file:
                    raise ValueError("a shard lies outside the folder")
                names = shards.setdefault(folder / file, set())
                assert names is not None
                names.add(name)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{index} is not a valid safetensors index: {error}") from None
        return shards
    if (folder / _SINGLE).is_file():
        return {folder / _SINGLE: None}
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return {found[0]: None}
    pickled = sorted(path.name for suffix in ("*.bin", "*.pt", "*.pth") for path in folder.glob(suffix))
    if pickled:
        raise ValueError(
            f"{folder} has pickled weights ({pickled[0]}), which are never loaded: convert them to safetensors"
        )
    raise ValueError(f"{folder} has no {_SINGLE} and no {_INDEX}")


@contextmanager
def _opened(path: Path, tensor: str = "") -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        what = f"{path}: tensor {tensor}" if tensor else f"{path}"
        raise ValueError(f"{what} cannot be read, the file is truncated or corrupt: {error}") from None
