"""The compiled module (module.cpp): pointers, sizes and strides in elements; dtype 0 is float32, 1 is bfloat16."""

from collections.abc import Callable
from typing import NewType

WorkList = NewType("WorkList", object)
"""The tasks of one step's attention. (Only for type checkers.)"""
Graph = NewType("Graph", object)
"""A captured sequence of kernel calls. (Only for type checkers.)"""

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
def attention_work_list(
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
) -> WorkList: ...
def attention(
    work_list: WorkList | None,
    pool: int,
    q: int,
    q_stride: int,
    k: int,
    k_stride: int,
    v: int,
    v_stride: int,
    out: int,
    score_divisor: float,
    heads: int,
    kv_heads: int,
    head_dim: int,
    page_size: int,
    dtype: int,
    /,
) -> None:
    """work_list: None only while a graph is captured. score_divisor: 1 / the softmax scale."""

def capture(forward: Callable[[], object], rows: int, /) -> Graph:
    """Capture the kernel calls that `forward` makes on `rows` rows, without running them.

    Raises RuntimeError if a call has another number of rows.
    """

def launch(graph: Graph, n: int, work_list: WorkList, /) -> None:
    """Run a graph's calls on the first n rows of the tensors that it was captured with, which must still be alive.

    work_list: of the step, of n tokens. Raises ValueError if n does not fit the graph or the list.
    """
