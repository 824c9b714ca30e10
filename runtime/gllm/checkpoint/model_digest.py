"""Digest of a model: of its configuration and its list of tensors, not of their data, which would take minutes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from gllm.checkpoint.hf_folder import read_config
from gllm.checkpoint.shards import safetensors_header
from gllm.wire.node_messages import ModelDigest


def digest_model(path: str, *, weights: bool = True) -> ModelDigest:
    """Digest a Hugging Face folder or a GGUF file; without `weights` (dummy ones) only its configuration.

    Raises ValueError, which names the file that cannot be read.
    """
    model = Path(path)
    try:
        if model.is_dir():
            return _digest_folder(model, weights)
        return _digest_gguf(model, weights)
    except OSError as error:
        raise ValueError(f"{error.filename or path} cannot be read: {error.strerror}") from None


def _digest_folder(folder: Path, weights: bool) -> ModelDigest:
    config = read_config(folder)
    tensors: list[Any] = []
    num_bytes = 0
    for file in sorted(folder.glob("*.safetensors")) if weights else ():
        header, _ = safetensors_header(file)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            tensors.append([name, entry["dtype"], entry["shape"]])
            num_bytes += end - start
    return _digest(config, sorted(tensors), num_bytes)


def _digest_gguf(file: Path, weights: bool) -> ModelDigest:
    from gllm.checkpoint.gguf_file import GGUFFile

    parsed = GGUFFile(file)
    tensors = sorted([name, tensor.type.name, list(tensor.shape)] for name, tensor in parsed.tensors.items())
    num_bytes = sum(tensor.num_bytes for tensor in parsed.tensors.values())
    return _digest(parsed.metadata, tensors if weights else [], num_bytes if weights else 0)


def _digest(config: Any, tensors: list[Any], num_bytes: int) -> ModelDigest:
    return ModelDigest(
        config=_hash(config), tensors=_hash(tensors) if tensors else "", num_tensors=len(tensors), num_bytes=num_bytes
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
