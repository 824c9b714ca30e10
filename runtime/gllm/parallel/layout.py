"""The division of a model between ranks: stages, tensor-parallel ranks, expert groups. Pure arithmetic, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gllm.models.config import ModelConfig, MoEConfig

_TOKENS, _SAMPLED = 256, 128
"""The micro-batch for which stage times are estimated: half of its tokens are decodes, which sample."""
_SAMPLING_PASSES = 8
"""The cost of sampling in passes over the float32 logits, each of one multiplication per logit and row."""


@dataclass(frozen=True, slots=True)
class RankCoords:
    """Coordinates of a rank: rank = stage * tp + tp_rank, so that the ranks of a stage are neighbours on one node."""

    pp: int
    tp: int
    rank: int

    @property
    def stage(self) -> int:
        return self.rank // self.tp

    @property
    def tp_rank(self) -> int:
        return self.rank % self.tp

    @property
    def is_first(self) -> bool:
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        return self.stage == self.pp - 1

    @property
    def samples(self) -> bool:
        """Whether this rank turns logits into tokens and sends the results to the engine."""
        return self.is_last and self.tp_rank == 0


def rank_slice(size: int, parts: int, index: int) -> slice:
    """Return slice `index` of `size` things that are divided evenly into `parts`; `parts` must divide `size`."""
    assert size % parts == 0, f"{size} is not divisible by {parts}"
    width = size // parts
    return slice(index * width, (index + 1) * width)


def kv_head_slice(num_kv_heads: int, tp: int, tp_rank: int) -> slice:
    """Return the key-value heads of a rank. With more ranks than heads, neighbours share a head (each keeps a copy)."""
    if tp <= num_kv_heads:
        return rank_slice(num_kv_heads, tp, tp_rank)
    head = tp_rank * num_kv_heads // tp
    return slice(head, head + 1)


def check_parallelism(
    model: ModelConfig, *, pp: int, tp: int, ep: int = 1, assigned_layers: Sequence[int] = ()
) -> None:
    """Raise ValueError, which names the flag and the fix, if the model cannot be divided this way."""
    for flag, value in (("--pp", pp), ("--tp", tp), ("--ep", ep)):
        if value < 1:
            raise ValueError(f"{flag} must be at least 1, not {value}")
    if pp > model.num_layers:
        raise ValueError(f"--pp {pp} is more than the model's {model.num_layers} layers: every stage needs a layer")
    if assigned_layers:
        given = ",".join(map(str, assigned_layers))
        if len(assigned_layers) != pp:
            raise ValueError(f"--assigned-layers {given} names {len(assigned_layers)} stages, but --pp is {pp}")
        if min(assigned_layers) < 1 or sum(assigned_layers) != model.num_layers:
            raise ValueError(
                f"--assigned-layers {given} must give every stage a layer and add up to the model's "
                f"{model.num_layers}, not {sum(assigned_layers)}"
            )
    if model.num_heads % tp:
        raise ValueError(f"--tp {tp} does not divide the model's {model.num_heads} attention heads")
    if model.num_kv_heads % tp and tp % model.num_kv_heads:
        raise ValueError(f"--tp {tp} is neither a divisor nor a multiple of the {model.num_kv_heads} key-value heads")
    if any(not model.has_experts(layer) for layer in range(model.num_layers)) and model.intermediate_size % tp:
        raise ValueError(f"--tp {tp} does not divide the model's intermediate size of {model.intermediate_size}")
    if tp % ep:
        raise ValueError(f"--ep {ep} does not divide --tp {tp}: the experts are divided among the ranks of a stage")
    if model.moe is not None:
        _check_experts(model.moe, tp, ep)
    elif ep > 1:
        raise ValueError(f"--ep {ep} divides experts, but {model.architecture} has none: use --ep 1")


def _check_experts(moe: MoEConfig, tp: int, ep: int) -> None:
    if moe.num_experts % ep:
        raise ValueError(f"--ep {ep} does not divide the model's {moe.num_experts} experts")
    if moe.intermediate_size % (tp // ep):
        raise ValueError(
            f"--tp {tp} with --ep {ep} divides each expert among {tp // ep} ranks, which do not divide its "
            f"intermediate size of {moe.intermediate_size}: use a larger --ep or a smaller --tp"
        )
    if moe.shared_intermediate_size % tp:
        raise ValueError(
            f"--tp {tp} does not divide the shared expert's intermediate size of {moe.shared_intermediate_size}"
        )


def split_layers(model: ModelConfig, pp: int, assigned_layers: Sequence[int] = ()) -> list[range]:
    """Return the layers of each stage: as assigned, else so that the slowest stage's estimated time is least.

    A micro-batch takes a stage time in proportion to the multiplications of its layers; the last stage also has the
    LM head and sampling for the rows that sample. (The embedding is a lookup: one pass over [tokens, hidden].)
    All layers count as equal, so it is optimal to give each in turn to the stage that then has the least time.
    """
    counts = list(assigned_layers)
    if not counts:
        layer = _TOKENS * layer_weights(model)
        costs = [0.0] * pp
        costs[0] += _TOKENS * model.hidden_size
        costs[-1] += _SAMPLED * model.vocab_size * (model.hidden_size + _SAMPLING_PASSES)
        counts = [1] * pp
        for _ in range(model.num_layers - pp):
            stage = min(range(pp), key=lambda index: costs[index] + (counts[index] + 1) * layer)
            counts[stage] += 1
    ends = [sum(counts[: index + 1]) for index in range(pp)]
    return [range(end - count, end) for end, count in zip(ends, counts, strict=True)]


def layer_weights(model: ModelConfig) -> float:
    """Return the multiplications per token of a layer's matrix products: the mean over all layers."""
    return sum(model.layer_weights(layer, active=True) for layer in range(model.num_layers)) / model.num_layers
