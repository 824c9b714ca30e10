"""Mixtures of experts: routing and blocks against transformers, native products, dispatch of tokens to ranks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import MixtralConfig, Qwen2MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock, Qwen2MoeTopKRouter

from gllm.layers.context import LayerContext
from gllm.layers.expert_dispatch import Dispatch
from gllm.layers.experts import ExpertNames
from gllm.layers.moe import MoE
from gllm.layers.ops.torch_experts import TorchExperts
from gllm.layers.ops.torch_ops import TorchOps
from gllm.models.config import MoEConfig
from gllm.parallel.tensor_group import SingleRankGroup
from gllm_kernels import cpu

CPU = torch.device("cpu")
SIZES = {"hidden_size": 32, "num_experts_per_tok": 3}


@pytest.mark.parametrize("renormalize", [False, True])
def test_routing_is_that_of_transformers(renormalize: bool) -> None:
    torch.manual_seed(0)
    router = Qwen2MoeTopKRouter(Qwen2MoeConfig(num_experts=8, norm_topk_prob=renormalize, **SIZES))
    torch.nn.init.normal_(router.weight, std=0.2)
    x = torch.randn(50, 32)
    with torch.inference_mode():
        logits, weights, chosen = router(x)
        mine, my_weights = TorchExperts().route(logits, 3, renormalize)
    assert torch.equal(mine.long(), chosen)
    torch.testing.assert_close(my_weights, weights)
    assert mine.dtype == torch.int32
    if renormalize:
        torch.testing.assert_close(my_weights.sum(1), torch.ones(50))
    else:
        assert (my_weights.sum(1) < 0.999).all()


def filled(layer: MoE, weights: dict[str, torch.Tensor], ops: TorchExperts) -> MoE:
    """Give a layer its parameters by name, as the loader does."""
    from gllm.layers.parameter import ExpertParameter

    for parameter in layer.parameters():
        if isinstance(parameter, ExpertParameter):
            shape = parameter.experts[0].shape
            parameter.data = ops.new_experts(len(parameter.experts), shape, torch.float32, CPU)
            for index, expert in enumerate(parameter.experts):
                pieces = [weights[part.name][part.rows, part.columns] for part in expert.slices]
                ops.set_expert(parameter.data, index, torch.cat(pieces).contiguous())
        else:
            parameter.data = torch.cat([weights[part.name][part.rows, part.columns] for part in parameter.slices])
    return layer


def expert_weights(block: Any, prefix: str, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Checkpoint names -> tensors, from transformers' stacked experts."""
    weights = {f"{prefix}.gate.weight": block.gate.weight}
    for index in range(len(block.experts.gate_up_proj)):
        gate, up = block.experts.gate_up_proj[index].chunk(2)
        for name, matrix in zip(names, (gate, up, block.experts.down_proj[index]), strict=True):
            weights[f"{prefix}.experts.{index}.{name}.weight"] = matrix
    return {name: tensor.detach() for name, tensor in weights.items()}


def qwen2_block(experts: int = 8) -> tuple[Any, dict[str, torch.Tensor], MoEConfig]:
    """A random block of transformers with a shared expert, its weights by checkpoint name, and its config for us."""
    torch.manual_seed(1)
    config = Qwen2MoeConfig(
        num_experts=experts, moe_intermediate_size=16, shared_expert_intermediate_size=24, hidden_act="silu", **SIZES
    )
    block = Qwen2MoeSparseMoeBlock(config)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = expert_weights(block, "mlp", ("gate_proj", "up_proj", "down_proj"))
    for name, tensor in block.named_parameters():
        if name.startswith("shared_expert"):
            weights[f"mlp.{name}"] = tensor.detach()
    moe = MoEConfig(
        num_experts=experts, experts_per_token=3, intermediate_size=16, renormalize=False, shared_intermediate_size=24
    )
    return block, weights, moe


def test_the_block_is_that_of_transformers_with_a_gated_shared_expert() -> None:
    block, weights, moe = qwen2_block()
    layer = filled(MoE(LayerContext(TorchOps()), "mlp", 32, moe), weights, TorchExperts())
    x = torch.randn(20, 32)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x.clone()), block(x[None])[0])


MIXTRAL = ("w1", "w3", "w2")


def test_mixtral_always_renormalizes() -> None:
    torch.manual_seed(2)
    block = MixtralSparseMoeBlock(MixtralConfig(num_local_experts=4, intermediate_size=24, **SIZES))
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    moe = MoEConfig(num_experts=4, experts_per_token=3, intermediate_size=24, renormalize=True)
    weights = expert_weights(block, "b", MIXTRAL)
    layer = filled(MoE(LayerContext(TorchOps()), "b", 32, moe, ExpertNames(*MIXTRAL)), weights, TorchExperts())
    x = torch.randn(20, 32)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x.clone()), block(x[None])[0])


Product = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def product_inputs(tokens: int, dtype: torch.dtype) -> Product:
    """x, gate_up, down, chosen (some are -1), weights."""
    torch.manual_seed(3)
    x = torch.randn(tokens, 48).to(dtype)
    gate_up, down = (torch.randn(6, 64, 48) * 0.2).to(dtype), (torch.randn(6, 48, 32) * 0.2).to(dtype)
    chosen, weights = TorchExperts().route(torch.randn(tokens, 6), 3, True)
    return x, gate_up, down, torch.where(torch.rand(tokens, 3) < 0.3, -1, chosen), weights


@pytest.mark.skipif(not cpu.available(), reason="needs the C++ kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_native_products(dtype: torch.dtype) -> None:
    from gllm.layers.ops.native_experts import NativeExperts
    from gllm.layers.ops.native_ops import NativeOps

    native = NativeExperts(NativeOps())
    x, gate_up, down, chosen, weights = product_inputs(40, dtype)
    packed = []
    for stack in (gate_up, down):
        packed.append(native.new_experts(6, tuple(stack.shape[1:]), dtype, CPU))
        for index, matrix in enumerate(stack):
            native.set_expert(packed[-1], index, matrix.clone())
        assert packed[-1].nbytes >= stack.nbytes
    together = native.product(x, *packed, chosen, weights)
    exact = TorchExperts().product(x.float(), gate_up.float(), down.float(), chosen, weights)
    tolerance = 1e-5 if dtype is torch.float32 else 4e-2
    torch.testing.assert_close(together.float(), exact, rtol=tolerance, atol=tolerance)
    for row in range(40):
        alone = native.product(x[row : row + 1], *packed, chosen[row : row + 1], weights[row : row + 1])
        assert torch.equal(alone[0], together[row]), "a token feels its neighbours"


class Meeting:
    """Ranks as threads of one process: in a collective, each rank leaves its tensors for the others to take."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.left: list[Any] = [None] * size

    def exchange(self, rank: int, thing: Any) -> list[Any]:
        self.left[rank] = thing
        self.barrier.wait(10)
        everything = list(self.left)
        self.barrier.wait(10)
        return everything


class ThreadRank(SingleRankGroup):
    def __init__(self, meeting: Meeting, size: int, rank: int) -> None:
        self.meeting, self.size, self.rank = meeting, size, rank
        self.sent: list[list[int]] = []

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.meeting.exchange(self.rank, x.clone())).sum(0)

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.meeting.exchange(self.rank, x))

    def all_to_all(self, x: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        assert len(x) == sum(sent)
        self.sent.append(list(sent))
        parts = [pieces[self.rank] for pieces in self.meeting.exchange(self.rank, x.split(list(sent)))]
        assert [len(part) for part in parts] == list(received)
        return torch.cat(parts)


def on_ranks(size: int, work: Callable[[ThreadRank], torch.Tensor]) -> list[torch.Tensor]:
    """The result of each rank."""
    meeting = Meeting(size)
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        with torch.inference_mode():
            results[rank] = work(ThreadRank(meeting, size, rank))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


@pytest.mark.parametrize(("tp", "ep"), [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4), (8, 4)])
@pytest.mark.parametrize("tokens", [1, 3, 21])
def test_ranks_together_compute_the_block(tp: int, ep: int, tokens: int) -> None:
    block, weights, moe = qwen2_block()
    torch.manual_seed(tokens)
    x = torch.randn(tokens, 32)

    def work(rank: ThreadRank) -> torch.Tensor:
        layer = MoE(LayerContext(TorchOps(), rank, ep), "mlp", 32, moe)
        return filled(layer, weights, TorchExperts())(x.clone())

    with torch.inference_mode():
        expected = block(x[None])[0]
    results = on_ranks(tp, work)
    for result in results:
        torch.testing.assert_close(result, expected)
        assert torch.equal(result, results[0]), "ranks go on from the same states"


def test_a_token_is_sent_once_to_each_rank_that_has_experts_for_it() -> None:
    """Three tokens for two ranks: rank 0 takes two of them. Experts 0 and 1 are rank 0's, 2 and 3 rank 1's."""
    chosen = torch.tensor([[0, 1], [1, 3], [2, 3]], dtype=torch.int32)
    weights = torch.tensor([[0.5, 0.25], [2.0, 1.0], [1.0, 4.0]])
    x = torch.tensor([[1.0], [10.0], [100.0]])
    seen: dict[int, list[Any]] = {}
    ranks: dict[int, ThreadRank] = {}

    def work(rank: ThreadRank) -> torch.Tensor:
        ranks[rank.rank] = rank

        def compute(rows: torch.Tensor, local: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            seen[rank.rank] = [rows[:, 0].tolist(), local.tolist()]
            # Expert e multiplies by e + 1.
            factor = torch.where(local < 0, 0.0, (local + 2 * rank.rank + 1) * scale)
            return rows * factor.sum(1, keepdim=True)

        share = slice(0, 2) if rank.rank == 0 else slice(2, 3)
        return Dispatch(rank, 2, 4, 2)(x, lambda mine: (chosen[share], weights[share]), compute)

    results = on_ranks(2, work)
    assert seen[0] == [[1.0, 10.0], [[0, 1], [1, -1]]]
    assert seen[1] == [[10.0, 100.0], [[-1, 1], [0, 1]]]
    assert ranks[0].sent == [[2, 1], [2, 1], [2, 0]]
    expected = torch.tensor([[1.0 * (0.5 + 0.5)], [10.0 * (4.0 + 4.0)], [100.0 * (3.0 + 16.0)]])
    assert all(torch.equal(result, expected) for result in results)
