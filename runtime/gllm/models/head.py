"""Decides whether the LM head shares the embedding's matrix: by the checkpoint, not only by the config."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import torch

from gllm.checkpoint.source import TensorSource, chunked
from gllm.layers.parameter import Parameter
from gllm.models.causal_lm import CausalLM

logger = logging.getLogger("gllm.models")


def follow_shared_matrix(model: CausalLM, source: TensorSource) -> set[str]:
    """Read a shared matrix under the head's name if the checkpoint has it only there. Returns both names, if shared."""
    if not model.config.tie_word_embeddings:
        return set()
    embedding, head = _names(model)
    if embedding not in source.tensors and head in source.tensors:
        for parameter in _parameters(model):
            _rename(parameter, head)
    return {embedding, head}


def decide_head(model: CausalLM, source: TensorSource) -> None:
    """Use the checkpoint's own head where it differs from the embedding, though the config says that it is tied.

    transformers 5 does the same. Only the rows of this rank are compared, up to the first difference.
    """
    follow_shared_matrix(model, source)
    if model.head is None or not model.config.tie_word_embeddings:
        return
    embedding, head = _names(model)
    if embedding not in source.tensors or head not in source.tensors:
        return
    if source.tensors[embedding].shape != source.tensors[head].shape:
        raise ValueError(
            f"tensor {head} has shape {list(source.tensors[head].shape)} and {embedding} "
            f"{list(source.tensors[embedding].shape)}: one vocabulary is expected"
        )
    if _equal(source, embedding, head, model.head.rows):
        return
    model.head.weight.tied_to = None
    _rename(model.head.weight, head)
    if model.head.group.rank == 0:
        logger.warning(
            "the config says tie_word_embeddings, but %s differs from %s in the checkpoint: the checkpoint's is used",
            head,
            embedding,
        )


def _names(model: CausalLM) -> tuple[str, str]:
    return f"{model.names.embedding}.weight", f"{model.names.head}.weight"


def _parameters(model: CausalLM) -> Iterator[Parameter]:
    for layer in (model.embedding, model.head):
        if layer is not None:
            yield layer.weight


def _rename(parameter: Parameter, name: str) -> None:
    parameter.slices = tuple(replace(part, name=name) for part in parameter.slices)


def _equal(source: TensorSource, first: str, second: str, rows: slice) -> bool:
    num_rows, columns = source.tensors[first].shape
    for piece, _ in chunked(rows, num_rows, columns * torch.float32.itemsize):
        both = torch.empty(2, piece.stop - piece.start, columns)
        source.read(first, both[0], piece)
        source.read(second, both[1], piece)
        if not torch.equal(both[0], both[1]):
            return False
    return True
