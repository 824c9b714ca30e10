"""The division of a model: every head, column and layer has its rank, the slowest stage is as fast as possible."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gllm.models.config import ModelConfig, MoEConfig, RopeConfig
from gllm.parallel.layout import (
    RankCoords,
    check_parallelism,
    kv_head_slice,
    layer_weights,
    rank_slice,
    split_layers,
)


def model(**fields: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_layers": 12,
        "num_heads": 8,
        "num_kv_heads": 2,
        "head_dim": 16,
        "vocab_size": 320,
        "max_position": 512,
        "rms_norm_eps": 1e-6,
        "rope": RopeConfig(),
        "tie_word_embeddings": False,
        "attention_bias": False,
    }
    return ModelConfig(**values | fields)


def mixture(**fields: Any) -> MoEConfig:
    values = {"num_experts": 8, "experts_per_token": 2, "intermediate_size": 32, "renormalize": True}
    return MoEConfig(**values | fields)


def test_rank_coords() -> None:
    ranks = [RankCoords(3, 2, rank) for rank in range(6)]
    assert [(one.stage, one.tp_rank) for one in ranks] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert [one.rank for one in ranks if one.is_first] == [0, 1]
    assert [one.rank for one in ranks if one.is_last] == [4, 5]
    assert [one.rank for one in ranks if one.samples] == [4]


def test_slices_tile() -> None:
    assert [rank_slice(12, 4, index) for index in range(4)] == [slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 12)]
    assert [kv_head_slice(4, 2, rank) for rank in range(2)] == [slice(0, 2), slice(2, 4)]
    assert [kv_head_slice(2, 4, rank).start for rank in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"pp": 0}, "--pp must be at least 1"),
        ({"pp": 13}, "--pp 13 is more than the model's 12 layers"),
        ({"pp": 2, "assigned_layers": (12,)}, "names 1 stages, but --pp is 2"),
        ({"pp": 2, "assigned_layers": (6, 5)}, "add up to the model's 12, not 11"),
        ({"pp": 2, "assigned_layers": (12, 0)}, "every stage a layer"),
        ({"tp": 3}, "--tp 3 does not divide the model's 8 attention heads"),
        ({"tp": 64}, "--tp 64 does not divide"),
        ({"tp": 2, "ep": 4}, "--ep 4 does not divide --tp 2"),
    ],
)
def test_what_cannot_be_divided_is_refused(shape: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_parallelism(model(), **{"pp": 1, "tp": 1} | shape)


def test_kv_heads_must_be_shared_evenly() -> None:
    check_parallelism(model(num_heads=8, num_kv_heads=2), pp=1, tp=8)
    with pytest.raises(ValueError, match="neither a divisor nor a multiple of the 6 key-value heads"):
        check_parallelism(model(num_heads=24, num_kv_heads=6, intermediate_size=96), pp=1, tp=8)


def slowest(config: ModelConfig, counts: tuple[int, ...]) -> float:
    """The estimate of `split_layers`, computed independently: layers, the embedding's pass, the head's rows."""
    attention = config.hidden_size * config.head_dim * (2 * config.num_heads + 2 * config.num_kv_heads)
    layer = 256 * (attention + 3 * config.hidden_size * config.intermediate_size)
    times = [count * layer for count in counts]
    times[0] += 256 * config.hidden_size
    times[-1] += 128 * config.vocab_size * (config.hidden_size + 8)
    return max(times)


@given(num_layers=st.integers(1, 14), pp=st.integers(1, 6), vocab=st.sampled_from([100, 3000, 30000, 200000]))
def test_no_other_split_has_a_faster_slowest_stage(num_layers: int, pp: int, vocab: int) -> None:
    pp = min(pp, num_layers)
    config = model(num_layers=num_layers, vocab_size=vocab)
    stages = split_layers(config, pp)
    assert [layer for stage in stages for layer in stage] == list(range(num_layers))
    counts = tuple(len(stage) for stage in stages)
    assert min(counts) >= 1
    every = (
        tuple(b - a for a, b in zip((0, *cuts), (*cuts, num_layers), strict=True))
        for cuts in combinations(range(1, num_layers), pp - 1)
    )
    assert slowest(config, counts) == min(slowest(config, other) for other in every)


def test_the_last_stage_has_fewer_layers_because_of_the_head() -> None:
    """Qwen2.5-32B: 64 layers and a head that weighs about one and a half of them where half of the tokens sample."""
    config = model(
        hidden_size=5120, intermediate_size=27648, num_layers=64, num_heads=40, num_kv_heads=8, head_dim=128,
        vocab_size=152064,
    )  # fmt: skip
    assert [len(stage) for stage in split_layers(config, 2)] == [32, 32]
    assert [len(stage) for stage in split_layers(config, 4)] == [16, 16, 16, 16]
    assert [len(stage) for stage in split_layers(config, 4, (15, 16, 17, 16))] == [15, 16, 17, 16]
    # SmolLM2-135M: the head alone weighs as much as eight of the 30 layers.
    small = model(
        hidden_size=576, intermediate_size=1536, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64,
        vocab_size=49152,
    )  # fmt: skip
    assert [len(stage) for stage in split_layers(small, 2)] == [17, 13]


@pytest.mark.parametrize(
    ("moe", "shape", "message"),
    [
        (None, {"tp": 2, "ep": 2}, "--ep 2 divides experts, but LlamaForCausalLM has none: use --ep 1"),
        (mixture(num_experts=6), {"tp": 4, "ep": 4}, "--ep 4 does not divide the model's 6 experts"),
        (mixture(intermediate_size=34), {"tp": 4}, "divides each expert among 4 ranks, which do not divide .* of 34"),
        (mixture(intermediate_size=33), {"tp": 4, "ep": 2}, "--tp 4 with --ep 2 divides each expert among 2 ranks"),
        (mixture(shared_intermediate_size=6), {"tp": 4}, "does not divide the shared expert's intermediate size of 6"),
        (mixture(dense_layers=(3,)), {"tp": 8, "ep": 8}, "--tp 8 does not divide the model's intermediate size of 100"),
    ],
)
def test_refusals_of_experts(moe: MoEConfig | None, shape: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_parallelism(model(moe=moe, intermediate_size=100 if moe else 96), **{"pp": 1, **shape})


def test_experts_need_only_what_a_rank_holds_divided() -> None:
    """With ep = tp experts stay whole, and a size that no layer has does not matter."""
    check_parallelism(model(moe=mixture(intermediate_size=33), intermediate_size=97), pp=1, tp=4, ep=4)


def test_a_layer_costs_what_its_active_experts_cost() -> None:
    dense, sparse = model(), model(moe=mixture(num_experts=64, experts_per_token=3))
    assert layer_weights(sparse) - layer_weights(dense) == 64 * 64
    half = model(moe=mixture(num_experts=64, experts_per_token=6, dense_layers=tuple(range(6))))
    assert layer_weights(dense) < layer_weights(half) < layer_weights(model(moe=mixture(experts_per_token=6))) + 4096
    assert layer_weights(model(moe=mixture(shared_intermediate_size=32))) == layer_weights(dense) + 64 * 8
