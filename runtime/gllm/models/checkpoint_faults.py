"""Errors for checkpoints that do not fit their config, where the name of a tensor alone would not help."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from gllm.checkpoint.source import TensorSource


def missing_tensor_hint(name: str, source: TensorSource) -> str:
    """Return a hint at the cause of a missing tensor, from the tensors that the checkpoint has; empty: no hint."""
    bare = name.removeprefix("model.")
    if bare != name and bare in source.tensors:
        return f"; it has {bare}: a model saved without its LM head, as embedding models are"
    wrapped = next((other for other in source.tensors if other.endswith(f".{name}")), None)
    if wrapped is not None:
        return f"; it has {wrapped}: a model inside another one, such as the text part of a multimodal model"
    if name.endswith("lm_head.weight"):
        return "; if the head shares the embedding, set tie_word_embeddings to true in config.json"
    return ""


def refuse_lost_biases(extras: Iterable[str], used: set[str], source: TensorSource, path: Path | str) -> None:
    """Raise ValueError for a bias of a used weight that the config does not announce: without it, answers are wrong.

    A bias of zeros changes nothing and passes. extras: names of the tensors that the model does not use. used: names
    of the tensors that it uses.
    """
    for name in extras:
        info = source.tensors[name]
        if not name.endswith(".bias") or f"{name.removesuffix('bias')}weight" not in used or not info.readable:
            continue
        bias = torch.empty(info.shape)
        source.read(name, bias)
        if bias.any():
            raise ValueError(
                f"{path}: tensor {name} is not zero, but the config announces no such bias: correct attention_bias or "
                "mlp_bias (or architectures) in config.json, or remove the tensor if the model was trained without it"
            )
