"""The Triton mixture of experts against the plain torch one, on the device."""

from __future__ import annotations

import pytest
import torch

from gllm.layers.ops.torch_experts import TorchExperts

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SHAPES = [(8, 2, 4096, 1792), (60, 4, 2048, 1408), (128, 8, 2048, 768), (128, 8, 2048, 96), (16, 3, 72, 40)]
"""(experts, experts per token, hidden, intermediate): Mixtral at tp = 8, Qwen2-MoE-A2.7B, Qwen3-30B-A3B, its slice at
tp = 8, and sizes that no tile divides."""
TOKENS = [1, 2, 33, 300, 2100]

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(experts: int, hidden: int, inner: int, tokens: int, seed: int = 0) -> Inputs:
    """x, gate_up, down, router logits."""
    torch.manual_seed(seed)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, device="cuda").bfloat16()

    x = random(tokens, hidden)
    gate_up, down = random(experts, 2 * inner, hidden) * hidden**-0.5, random(experts, hidden, inner) * inner**-0.5
    return x, gate_up, down, random(tokens, experts)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert torch.isfinite(got).all()
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(("experts", "k", "hidden", "inner"), SHAPES)
def test_routing_and_products(experts: int, k: int, hidden: int, inner: int, tokens: int) -> None:
    from gllm.layers.ops.triton_experts import TritonExperts

    triton, plain = TritonExperts(), TorchExperts()
    x, gate_up, down, logits = inputs(experts, hidden, inner, tokens)
    for renormalize in (False, True):
        chosen, weights = triton.route(logits, k, renormalize)
        expected, expected_weights = plain.route(logits, k, renormalize)
        # 16-bit logits have ties, and the two implementations may choose different experts among equals.
        torch.testing.assert_close(weights, expected_weights)
        found = torch.softmax(logits.float(), -1).gather(1, chosen.long())
        torch.testing.assert_close(found, torch.softmax(logits.float(), -1).gather(1, expected.long()))
    for absent in (0.0, 0.5):
        chosen = torch.where(torch.rand(tokens, k, device="cuda") < absent, -1, chosen)
        exact = plain.product(x.float(), gate_up.float(), down.float(), chosen, weights)
        got = triton.product(x, gate_up, down, chosen, weights)
        if exact.norm() == 0:
            assert got.abs().max() == 0
        else:
            assert relative_error(got, exact) < 1e-2


def test_all_tokens_to_one_expert_and_strided_rows() -> None:
    from gllm.layers.ops.triton_experts import TritonExperts

    x, gate_up, down, _ = inputs(16, 256, 128, 700)
    wide = torch.cat((x, torch.full_like(x, float("nan"))), dim=1)[:, :256]
    chosen = torch.full((700, 1), 5, dtype=torch.int32, device="cuda")
    weights = torch.full((700, 1), 0.5, device="cuda")
    exact = TorchExperts().product(x.float(), gate_up.float(), down.float(), chosen, weights)
    assert relative_error(TritonExperts().product(wide, gate_up, down, chosen, weights), exact) < 1e-2


def test_every_tiling_is_right() -> None:
    from gllm_kernels.triton import experts, tiles

    x, gate_up, down, logits = inputs(8, 512, 256, 500)
    chosen, weights = TorchExperts().route(logits, 2, True)
    exact = TorchExperts().product(x.float(), gate_up.float(), down.float(), chosen, weights)
    for table in (tiles.GENERAL, tiles.table_for(4096, 14336), tiles.table_for(2048, 768)):
        for _, tiling in table:
            got = experts.product(x, gate_up, down, chosen, weights, tiling)
            assert relative_error(got, exact) < 1e-2, tiling


@pytest.mark.parametrize("tokens", [7, 64, 1000])
def test_a_token_does_not_depend_on_other_tokens(tokens: int) -> None:
    """Bit for bit. The test below varies their number."""
    from gllm.layers.ops.triton_experts import TritonExperts

    triton = TritonExperts()
    x, gate_up, down, logits = inputs(128, 2048, 768, tokens)
    together = triton.product(x, gate_up, down, *triton.route(logits, 8, True))
    others, other_logits = torch.randn_like(x), torch.randn_like(logits)
    others[3], other_logits[3] = x[3], logits[3]
    again = triton.product(others, gate_up, down, *triton.route(other_logits, 8, True))
    assert torch.equal(together[3], again[3])


def test_a_token_alone_and_in_a_crowd() -> None:
    """Tiles differ between small and large batches, but not the order in which a row is summed."""
    from gllm.layers.ops.triton_experts import TritonExperts

    triton = TritonExperts()
    x, gate_up, down, logits = inputs(128, 2048, 768, 4096)
    chosen, weights = triton.route(logits, 8, True)
    crowd = triton.product(x, gate_up, down, chosen, weights)
    for size in (1, 5, 64, 512, 2048):
        few = triton.product(x[:size], gate_up, down, chosen[:size], weights[:size])
        assert torch.equal(few, crowd[:size]), size


@pytest.mark.parametrize("tokens", [3, 512])
def test_a_captured_graph_with_other_routing(tokens: int) -> None:
    from gllm.layers.ops.triton_experts import TritonExperts

    triton = TritonExperts()
    x, gate_up, down, logits = inputs(64, 512, 256, tokens)
    triton.product(x, gate_up, down, *triton.route(logits, 4, True))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = triton.product(x, gate_up, down, *triton.route(logits, 4, True))
    for seed in (1, 2):
        fresh, _, _, fresh_logits = inputs(64, 512, 256, tokens, seed)
        x.copy_(fresh)
        # The second time every token goes to the same few experts.
        logits.copy_(fresh_logits if seed == 1 else fresh_logits[:1].expand_as(logits))
        graph.replay()
        chosen, weights = TorchExperts().route(logits, 4, True)
        exact = TorchExperts().product(x.float(), gate_up.float(), down.float(), chosen, weights)
        assert relative_error(out, exact) < 1e-2
