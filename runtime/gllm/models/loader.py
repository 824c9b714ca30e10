"""Builds a model and fills its weights from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gllm.checkpoint.gguf_layout import GGUFLayout
from gllm.checkpoint.gguf_source import GGUFSource
from gllm.checkpoint.safetensors_source import SafetensorsSource
from gllm.checkpoint.source import TensorSource
from gllm.layers.context import LayerContext
from gllm.layers.ops.protocols import ExpertOps
from gllm.layers.ops.torch_ops import TorchOps
from gllm.layers.parameter import ExpertParameter, Parameter
from gllm.models.causal_lm import CausalLM
from gllm.models.checkpoint_faults import missing_tensor_hint, refuse_lost_biases
from gllm.models.config import ModelConfig
from gllm.models.families import build_model, family_of
from gllm.models.head import decide_head, follow_shared_matrix

logger = logging.getLogger("gllm.models")

_DUMMY_RANGE = 0.02
_KNOWN_EXTRAS = (
    *("lm_head.weight", "rotary_emb.inv_freq", "rotary_pos_emb.inv_freq"),
    *("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"),
)
"""Endings of unused tensors: copies in old or tied checkpoints, and tensors from which the config was read."""


def load_model(
    path: Path | str,
    config: ModelConfig,
    *,
    context: LayerContext,
    dtype: torch.dtype,
    device: torch.device,
    layers: range | None = None,
    load_format: str = "auto",
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    max_model_len: int | None = None,
) -> CausalLM:
    """Build this rank's part of the model and fill its weights one tensor at a time, reading only what it holds.

    Peak memory is the final weights and one tensor.

    Args:
        layers: the layers of the rank's stage; None: all.
        load_format: auto (read the checkpoint) or dummy (small random weights from `seed`, for benchmarks).
        progress: gets the fraction done, 1.0 at the end.
        max_model_len: the context in tokens that the rope table covers; None: the model's own.

    Raises:
        ValueError: before allocating, naming a tensor that the checkpoint lacks or has in another shape.
    """
    model = build_model(config, context, layers)
    report = progress or (lambda fraction: None)
    if load_format == "dummy":
        generator = torch.Generator(device).manual_seed(seed)
        _fill(model, dtype, device, context, report, lambda parameter, out: _fill_dummy(parameter, out, generator))
    else:
        source = open_checkpoint(path, family_of(config).gguf)
        # Check the declarations of the whole model, not only of this rank's part.
        _check(build_model(config, LayerContext(TorchOps())), source, path)
        decide_head(model, source)
        _fill(model, dtype, device, context, report, lambda parameter, out: _read(parameter, out, source))
    model.rotary.allocate(max_model_len or config.context(), device)
    return model


def open_checkpoint(path: Path | str, gguf: GGUFLayout | None) -> TensorSource:
    """Open a Hugging Face folder, or a GGUF file that is stored as `gguf` says. Raises ValueError if it is damaged."""
    path = Path(path)
    if path.is_dir():
        return SafetensorsSource(path)
    assert gguf is not None, "load_model_config finds a GGUF file's family by its layout"
    return GGUFSource(path, gguf)


def estimate_weight_bytes(
    config: ModelConfig, dtype: torch.dtype, context: LayerContext | None = None, layers: range | None = None
) -> int:
    """Return the bytes of a rank's weights before `Ops.pack_linear`, by default of all weights. Allocates nothing."""
    model = build_model(config, context or LayerContext(TorchOps()), layers)
    return sum(parameter.num_bytes(dtype) for parameter in model.parameters())


def _check(model: CausalLM, source: TensorSource, path: Path | str) -> None:
    expected = follow_shared_matrix(model, source)
    for parameter in model.parameters():
        if parameter.tied_to is not None:
            continue
        for part in parameter.slices:
            found = source.tensors.get(part.name)
            if found is None:
                hint = missing_tensor_hint(part.name, source)
                raise ValueError(f"{path} has no tensor {part.name}, which {model.config.architecture} needs{hint}")
            if found.shape != part.shape:
                raise ValueError(
                    f"{path}: tensor {part.name} has shape {list(found.shape)}, but the config says {list(part.shape)}"
                )
            if not found.readable:
                raise ValueError(f"{path}: tensor {part.name} has type {found.dtype}, which is not supported")
            expected.add(part.name)
    extras = sorted(name for name in source.tensors if name not in expected and not name.endswith(_KNOWN_EXTRAS))
    refuse_lost_biases(extras, expected, source, path)
    if extras:
        logger.warning("checkpoint has %d tensors that the model does not use, first %s", len(extras), extras[0])


def _fill(
    model: CausalLM,
    dtype: torch.dtype,
    device: torch.device,
    context: LayerContext,
    report: Callable[[float], None],
    fill: Callable[[Parameter, torch.Tensor], None],
) -> None:
    total = sum(parameter.num_bytes(dtype) for parameter in model.parameters())
    done = 0
    for parameter in model.parameters():
        if isinstance(parameter, ExpertParameter):
            parameter.data = _experts(parameter, dtype, device, context.experts, fill)
            model.weight_bytes += parameter.data.nbytes
            done += parameter.num_bytes(dtype)
            report(done / total)
            continue
        if parameter.tied_to is not None:
            weight = parameter.tied_to.data
        else:
            weight = torch.empty(parameter.shape, dtype=dtype, device=device)
            fill(parameter, weight)
        parameter.data = context.ops.pack_linear(weight) if parameter.linear else weight
        if parameter.tied_to is None or parameter.data is not weight:
            model.weight_bytes += _num_bytes(parameter.data, weight)
        done += parameter.num_bytes(dtype)
        report(done / total)


def _experts(
    parameter: ExpertParameter,
    dtype: torch.dtype,
    device: torch.device,
    ops: ExpertOps,
    fill: Callable[[Parameter, torch.Tensor], None],
) -> Any:
    """Load one expert after the other, so that only one matrix at a time is in memory twice."""
    shape = parameter.experts[0].shape
    experts = ops.new_experts(len(parameter.experts), shape, dtype, device)
    weight = torch.empty(shape, dtype=dtype, device=device)
    for index, expert in enumerate(parameter.experts):
        fill(expert, weight)
        ops.set_expert(experts, index, weight)
    return experts


def _num_bytes(packed: Any, weight: torch.Tensor) -> int:
    """Return the bytes of a packed weight: its own `nbytes`, or the tensor's if it has no such attribute."""
    size: int = getattr(packed, "nbytes", weight.nbytes)
    return size


def _read(parameter: Parameter, out: torch.Tensor, source: TensorSource) -> None:
    start = 0
    for part in parameter.slices:
        rows = part.held[0]
        piece = out[start : start + rows]
        source.read(part.name, piece, part.rows, part.columns)
        if part.transform is not None:
            piece.copy_(part.transform(piece))
        start += rows


def _fill_dummy(parameter: Parameter, out: torch.Tensor, generator: torch.Generator) -> None:
    """Fill norm weights with ones, all other weights with small numbers around zero."""
    if parameter.slices[0].name.endswith("norm.weight"):
        out.fill_(1.0)
    else:
        out.uniform_(-_DUMMY_RANGE, _DUMMY_RANGE, generator=generator)
