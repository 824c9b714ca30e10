"""The C++ dense operations against float64 arithmetic in torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gllm.layers.ops.native_ops import NativeOps
from gllm_kernels import cpu

pytestmark = pytest.mark.usefixtures("isa")

DTYPES = [torch.float32, torch.bfloat16]
# Half a unit in the last place of a result, relative.
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


@pytest.fixture
def ops() -> NativeOps:
    return NativeOps()


def strided(n: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    """[n, size] with a row stride larger than a row."""
    return torch.randn(n, size + 5).to(dtype)[:, 2 : size + 2]


def assert_near(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype, roundings: float = 1) -> None:
    """Equal up to float32 noise and the given number of roundings to `dtype`."""
    want = want.double()
    bound = 1e-5 * want.abs() + 1e-6 + roundings * 1.01 * ROUNDING[dtype] * want.abs()
    assert (got.double() - want).abs().sub(bound).max() <= 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "size", "out"),
    [(1, 576, 960), (1, 33, 70), (2, 1, 1), (5, 64, 63), (7, 31, 129), (13, 96, 64), (300, 80, 48)],
)
def test_linear_is_the_rounded_product(ops: NativeOps, dtype: torch.dtype, n: int, size: int, out: int) -> None:
    x, weight, bias = strided(n, size, dtype), torch.randn(out, size).to(dtype), torch.randn(out).to(dtype)
    packed = ops.pack_linear(weight)
    want = x.double() @ weight.double().T
    # The error of a float32 sum, whatever its order, is bounded through the sum of magnitudes.
    noise = (x.double().abs() @ weight.double().abs().T + bias.double().abs()) * (size + 2) * 2.0**-24
    for got, exact, rounding in (
        (ops.linear(x, packed, None), want, ROUNDING[dtype]),
        (ops.linear(x, packed, bias), want + bias.double(), ROUNDING[dtype]),
        (ops.linear_f32(x, packed), want, ROUNDING[torch.float32]),
    ):
        assert got.shape == (n, out)
        assert ((got.double() - exact).abs() <= noise + rounding * (exact.abs() + noise)).all()
    assert ops.linear(x, packed, None).dtype is dtype
    assert ops.linear_f32(x, packed).dtype is torch.float32


def test_linear_of_no_rows(ops: NativeOps) -> None:
    packed = ops.pack_linear(torch.randn(8, 16))
    assert ops.linear(torch.empty(0, 16), packed, None).shape == (0, 8)


def test_a_weight_with_a_row_stride_is_packed_as_its_copy(ops: NativeOps) -> None:
    weight = torch.randn(20, 48)[:, :40]
    x = torch.randn(3, 40)
    assert ops.linear(x, ops.pack_linear(weight), None).equal(ops.linear(x, ops.pack_linear(weight.clone()), None))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_a_product_does_not_depend_on_its_batch(ops: NativeOps, dtype: torch.dtype) -> None:
    x = torch.randn(300, 162).to(dtype)
    packed = ops.pack_linear(torch.randn(200, 162).to(dtype))
    whole = ops.linear_f32(x, packed)
    for n in (1, 2, 3, 7, 64):
        for start in (0, 5, 300 - n):
            assert ops.linear_f32(x[start : start + n], packed).equal(whole[start : start + n])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_does_not_depend_on_the_number_of_threads(ops: NativeOps, dtype: torch.dtype) -> None:
    # With 600 or 2048 inputs the rows make several blocks, the last one shorter.
    for size, rows in ((96, (1, 9, 27, 100)), (600, (700,)), (2048, (197,))):
        packed = ops.pack_linear(torch.randn(500, size).to(dtype))
        for n in rows:
            x = torch.randn(n, size).to(dtype)
            results = []
            for threads in (1, 2, 5, 16):
                cpu.set_num_threads(threads)
                results.append(ops.linear(x, packed, None))
            assert all(results[0].equal(other) for other in results[1:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "size"), [(1, 576), (3, 33), (70, 512)])
def test_rms_norm(ops: NativeOps, dtype: torch.dtype, n: int, size: int) -> None:
    x, weight = strided(n, size, dtype), torch.randn(size).to(dtype)
    want = F.rms_norm(x.double(), (size,), eps=1e-5) * weight.double()
    # Rounded once before the weight and once after it.
    assert_near(ops.rms_norm(x, weight, 1e-5), want, dtype, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_of_heads(ops: NativeOps, dtype: torch.dtype) -> None:
    heads = torch.randn(5, 9, 64).to(dtype)[:, 2:6]
    weight = torch.randn(64).to(dtype)
    want = F.rms_norm(heads.double(), (64,), eps=1e-6) * weight.double()
    got = ops.rms_norm(heads, weight, 1e-6)
    assert got.shape == heads.shape
    assert_near(got, want, dtype, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "size"), [(1, 576), (50, 90)])
def test_add_rms_norm_updates_the_residual(ops: NativeOps, dtype: torch.dtype, n: int, size: int) -> None:
    x, residual, weight = torch.randn(n, size).to(dtype), torch.randn(n, size).to(dtype), torch.randn(size).to(dtype)
    total = x + residual
    got = ops.add_rms_norm(x, residual, weight, 1e-5)
    assert residual.equal(total)
    assert_near(got, F.rms_norm(total.double(), (size,), eps=1e-5) * weight.double(), dtype, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(64, 64), (80, 80), (64, 32), (16, 6)])
def test_rope_rotates_q_and_k_in_place(ops: NativeOps, dtype: torch.dtype, head_dim: int, rotary_dim: int) -> None:
    n, heads, kv_heads, half = 37, 3, 1, rotary_dim // 2
    fused = torch.randn(n, heads + 2 * kv_heads, head_dim).to(dtype)
    before = fused.clone()
    q, k, _ = fused.split([heads, kv_heads, kv_heads], dim=1)
    positions = torch.randint(0, 100, (n,))
    angles = torch.rand(100, half) * 6
    ops.rope(q, k, positions, torch.cat([angles.cos(), angles.sin()], dim=1))

    cos, sin = angles.cos()[positions].double()[:, None], angles.sin()[positions].double()[:, None]
    first, second = before[..., :half].double(), before[..., half:rotary_dim].double()
    rotated = before.double()
    rotated[..., :half] = first * cos - second * sin
    rotated[..., half:rotary_dim] = second * cos + first * sin
    assert_near(fused[:, : heads + kv_heads], rotated[:, : heads + kv_heads], dtype)
    assert fused[:, heads + kv_heads :].equal(before[:, heads + kv_heads :])
    assert fused[..., rotary_dim:].equal(before[..., rotary_dim:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "size"), [(1, 1536), (40, 50)])
def test_gate(ops: NativeOps, dtype: torch.dtype, n: int, size: int) -> None:
    x = (strided(n, 2 * size, dtype) * 4).to(dtype)
    want = F.silu(x[:, :size].double()) * x[:, size:].double()
    assert_near(ops.gate(x, "silu"), want, dtype, 2)


def test_silu_of_extremes_is_finite(ops: NativeOps) -> None:
    gate = torch.tensor([-1e30, -300.0, -88.0, 0.0, 300.0, 1e30])
    got = ops.gate(torch.cat([gate, torch.ones(6)])[None], "silu")
    assert_near(got[0], F.silu(gate.double()), torch.float32)


@pytest.mark.parametrize("size", [1, 5, 16, 1000, 49152])
def test_argmax_takes_the_first_of_equal_values(ops: NativeOps, size: int) -> None:
    logits = torch.randn(4, size + 3)[:, :size].mul(2).round()
    want = [row.index(max(row)) for row in logits.tolist()]
    assert ops.argmax(logits).tolist() == want


def test_argmax_skips_nan_and_infinities(ops: NativeOps) -> None:
    inf, nan = float("inf"), float("nan")
    logits = torch.tensor([[nan, 1.0, 2.0], [-inf, -inf, -inf], [1.0, inf, inf], [nan, nan, nan], [-inf, -5.0, nan]])
    assert ops.argmax(logits).tolist() == [2, 0, 1, 0, 1]


@pytest.mark.parametrize("size", [1, 17, 1000])
def test_log_sum_exp(ops: NativeOps, size: int) -> None:
    logits = torch.randn(6, size) * 20
    logits[1] += 1e4
    logits[2, 1:] = -float("inf")
    torch.testing.assert_close(ops.log_sum_exp(logits), logits.double().logsumexp(-1).float(), rtol=1e-5, atol=1e-5)


def test_log_sum_exp_of_nothing_is_minus_infinity(ops: NativeOps) -> None:
    assert ops.log_sum_exp(torch.full((1, 9), -float("inf"))).item() == -float("inf")


def test_float16_is_refused_with_a_fix(ops: NativeOps) -> None:
    with pytest.raises(ValueError, match=r"float32 or bfloat16, not float16.*--attention-backend reference"):
        ops.pack_linear(torch.zeros(4, 4, dtype=torch.float16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "in_size"), [(64, 96), (192, 130), (40, 64)])
def test_gated_product_is_the_product_then_the_activation(dtype: torch.dtype, size: int, in_size: int) -> None:
    """To the bit, with and without a bias, for one tile and for many; 40 is not a whole panel."""
    ops = NativeOps()
    packed = ops.pack_linear(torch.randn(2 * size, in_size).to(dtype))
    for bias in (None, torch.randn(2 * size).to(dtype)):
        for n in (1, 5, 13, 70):
            x = torch.randn(n, in_size).to(dtype)
            assert ops.gated_linear(x, packed, bias, "silu").equal(ops.gate(ops.linear(x, packed, bias), "silu"))


def test_logits_may_be_written_to_given_memory() -> None:
    ops = NativeOps()
    packed, x = ops.pack_linear(torch.randn(100, 64)), torch.randn(3, 64)
    memory = torch.full((5, 100), 7.0)
    got = ops.linear_f32(x, packed, memory)
    assert got.data_ptr() == memory.data_ptr()
    assert got.equal(ops.linear_f32(x, packed))
    assert memory[3:].eq(7).all()
