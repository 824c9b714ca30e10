"""The compiled module (module.cpp): pointers, sizes and strides in elements; dtype 0 is float32, 1 is bfloat16."""

from collections.abc import Callable
from typing import Any

def supported_isas() -> tuple[str, ...]: ...
def select_isa(name: str, /) -> None: ...
def isa() -> str: ...
def set_num_threads(count: int, /) -> None: ...
def num_threads() -> int: ...
def panel_width() -> int: ...
def pack(weight: int, stride: int, out: int, out_features: int, in_features: int, dtype: int, /) -> None: ...
def linear(
    x: int,
    x_stride: int,
    weight: int,
    bias: int,
    out: int,
    n: int,
    in_features: int,
    out_features: int,
    dtype: int,
    out_float32: bool,
    /,
) -> None: ...
def linear_gated(
    x: int,
    x_stride: int,
    weight: int,
    bias: int,
    out: int,
    n: int,
    in_features: int,
    out_features: int,
    dtype: int,
    /,
) -> None: ...
def rms_norm(
    x: int,
    token_stride: int,
    head_stride: int,
    residual: int,
    residual_stride: int,
    weight: int,
    out: int,
    n: int,
    heads: int,
    size: int,
    eps: float,
    dtype: int,
    /,
) -> None: ...
def rope(
    q: int,
    q_token_stride: int,
    q_head_stride: int,
    q_heads: int,
    k: int,
    k_token_stride: int,
    k_head_stride: int,
    k_heads: int,
    positions: int,
    cos_sin: int,
    n: int,
    rotary_dim: int,
    dtype: int,
    /,
) -> None: ...
def silu_and_mul(x: int, stride: int, out: int, n: int, size: int, dtype: int, /) -> None: ...
def argmax(x: int, stride: int, out: int, n: int, size: int, /) -> None: ...
def log_sum_exp(x: int, stride: int, out: int, n: int, size: int, /) -> None: ...
def attention_plan(
    query_lens: int,
    kv_lens: int,
    block_tables: int,
    rows: int,
    num_decode_rows: int,
    max_pages: int,
    heads: int,
    kv_heads: int,
    page_size: int,
    /,
) -> Any: ...
def attention(
    plan: Any,
    pool: int,
    q: int,
    q_stride: int,
    k: int,
    k_stride: int,
    v: int,
    v_stride: int,
    out: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    page_size: int,
    dtype: int,
    /,
) -> None: ...
def record(forward: Callable[[], object], rows: int, /) -> Any:
    """A tape of the kernel calls that `forward` makes on `rows` rows; they are not run.

    `attention` does not look at its plan. RuntimeError: a call has another number of rows.
    """

def replay(tape: Any, n: int, plan: Any, /) -> None:
    """Run a tape's calls on the first n rows of the tensors it was recorded with, which must still be alive.

    plan: the attention plan of the step, of n tokens.
    """
