"""The files that hold a checkpoint's weights: safetensors files of a folder and their headers, parts of a GGUF file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gllm.checkpoint.wrong_files import wrong_content

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_LARGEST_HEADER = 256 * 1024 * 1024
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.safetensors|\.gguf)")


def find_shards(folder: Path) -> dict[Path, set[str] | None]:
    """Return the files to open, with the tensors that each must hold (None: all that it has).

    As in transformers a single model.safetensors wins, then the index. Without either, the shards are used whose names
    count them completely, or the only file. Raises ValueError, which says what the folder has instead.
    """
    if (folder / _SINGLE).is_file():
        return {folder / _SINGLE: None}
    if (folder / INDEX).is_file():
        return _indexed(folder / INDEX)
    # An adapter beside a model is not part of it.
    files = [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith("adapter_")]
    # Mistral publishes the same weights a second time in its own layout.
    files = [path for path in files if not path.name.startswith("consolidated")] or files
    if len(files) == 1 and _PART.fullmatch(files[0].name) is None:
        return {files[0]: None}
    counted = [path for path in files if _PART.fullmatch(path.name)]
    if counted:
        first = next((path for path in counted if path.name.startswith("model-")), counted[0])
        return dict.fromkeys(all_parts(first))
    if files:
        raise ValueError(
            f"{folder} has several safetensors files ({files[0].name}, {files[1].name}) and no {INDEX} that says "
            "which belong to the model"
        )
    pickled = sorted(path.name for suffix in ("*.bin", "*.pt", "*.pth") for path in folder.glob(suffix))
    if pickled:
        raise ValueError(
            f"{folder} has pickled weights ({pickled[0]}), which are never loaded: convert them to safetensors"
        )
    raise ValueError(f"{folder} has no {_SINGLE} and no {INDEX}")


def all_parts(path: Path) -> list[Path]:
    """Return all files NAME-0000I-of-0000N, of which `path` is one. Raises ValueError, which names a missing one."""
    match = _PART.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is one part of several, whose names must end in -00001-of-00003 and so on")
    stem, _, count, suffix = match.groups()
    parts = [path.with_name(f"{stem}-{number:05d}-of-{count}{suffix}") for number in range(1, int(count) + 1)]
    for part in parts:
        if not part.is_file():
            raise ValueError(f"{part} is missing: the model has {int(count)} parts and needs all; download it again")
    return parts


def _indexed(index: Path) -> dict[Path, set[str] | None]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        shards: dict[Path, set[str] | None] = {}
        for name, file in weight_map.items():
            if Path(file).name != file:
                raise ValueError("a shard lies outside the folder")
            names = shards.setdefault(index.with_name(file), set())
            assert names is not None
            names.add(name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is not a valid safetensors index: {wrong_content(index) or error}") from None
    return shards


def safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the entries (dtype, shape, data_offsets) of a file's tensors by name, and the data's offset in bytes.

    Raises ValueError if it is not a safetensors file, OSError if it cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if 0 < length <= _LARGEST_HEADER else None
        except (ValueError, RecursionError):
            header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path} is not a safetensors file")
    header.pop("__metadata__", None)
    return header, 8 + length
