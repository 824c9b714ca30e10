"""Our products of a few rows with a large weight, against torch in float32."""

from __future__ import annotations

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SHAPES = [(5120, 27648), (5120, 13824), (55296, 5120), (24576, 4096), (8320, 8192)]
"""(out, in): the MLP of Qwen2.5-32B, whole and at tp 2; of Qwen3-8B; outputs that are not a power of two."""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_products_are_those_of_torch(outputs: int, inputs: int, dtype: torch.dtype) -> None:
    from gllm_kernels.triton import skinny

    torch.manual_seed(0)
    weight = (torch.randn(outputs, inputs, device="cuda") / inputs**0.5).to(dtype)
    for n in (1, 2, 15, 16, 17, 32):
        x = torch.randn(n, inputs, device="cuda").to(dtype)
        assert skinny.fits(x, weight)
        expected = x.float() @ weight.float().t()
        got = skinny.linear(x, weight)
        torch.testing.assert_close(got.float(), expected, atol=1e-2, rtol=1e-2)
        gate, up = expected.to(dtype).float().chunk(2, dim=1)
        gated = skinny.gated_linear(x, weight)
        torch.testing.assert_close(gated.float(), torch.nn.functional.silu(gate) * up, atol=2e-2, rtol=2e-2)
        for _ in range(20):  # the parts of a sum arrive in any order, but are added in one
            assert torch.equal(skinny.linear(x, weight), got)


def test_other_products_are_left_to_cublas() -> None:
    from gllm_kernels.triton import skinny

    large = torch.empty(16384, 8192, device="cuda", dtype=torch.bfloat16)
    assert skinny.fits(torch.empty(32, 8192, device="cuda", dtype=torch.bfloat16), large)
    assert not skinny.fits(torch.empty(33, 8192, device="cuda", dtype=torch.bfloat16), large)
    assert not skinny.fits(torch.empty(8, 8192, device="cuda", dtype=torch.bfloat16), large[:4096])
    assert not skinny.fits(torch.empty(8, 16384, device="cuda", dtype=torch.bfloat16)[:, ::2], large)
