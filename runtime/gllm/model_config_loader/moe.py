"""The mixture of experts of a config.json."""

from __future__ import annotations

from gllm.model_config_loader.families import Family
from gllm.model_config_loader.fields import MOST_EXPERTS, Fields
from gllm.models.config import MoEConfig


def load_moe(config: Fields, family: Family, num_layers: int) -> MoEConfig | None:
    """None for a family without experts. Raises ValueError naming the key."""
    if family.num_experts == 0:
        return None
    # transformers 5 writes Qwen3-MoE's number under Mixtral's name.
    key = "num_experts" if config.get("num_experts") is not None else "num_local_experts"
    num_experts = config.positive_int(key, family.num_experts, most=MOST_EXPERTS)
    per_token = config.positive_int("num_experts_per_tok", family.experts_per_token)
    if per_token > num_experts:
        raise config.error("num_experts_per_tok", f"({per_token}) is above {key} ({num_experts})")
    if family.always_renormalizes:
        size, renormalize = config.positive_int("intermediate_size"), True
    else:
        size, renormalize = config.positive_int("moe_intermediate_size"), config.boolean("norm_topk_prob", False)
    shared = 0
    if family.shared_intermediate_size:
        shared = config.positive_int("shared_expert_intermediate_size", family.shared_intermediate_size)
    return MoEConfig(
        num_experts=num_experts,
        experts_per_token=per_token,
        intermediate_size=size,
        renormalize=renormalize,
        shared_intermediate_size=shared,
        dense_layers=_dense_layers(config, num_layers),
    )


def _dense_layers(config: Fields, num_layers: int) -> tuple[int, ...]:
    """Of `decoder_sparse_step` layers the last one has experts, unless `mlp_only_layers` lists it."""
    step = config.positive_int("decoder_sparse_step", 1)
    listed = config.get("mlp_only_layers", [])
    if not isinstance(listed, list) or any(isinstance(index, bool) or not isinstance(index, int) for index in listed):
        raise config.error("mlp_only_layers", f"must be a list of layer numbers, not {listed!r}")
    return tuple(index for index in range(num_layers) if index in listed or (index + 1) % step)
