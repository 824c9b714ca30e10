"""Runs a test once for every instruction set of this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gllm_kernels import cpu

ISAS = cpu.native.supported_isas() if cpu.native is not None else ()
# Without a compiler there are no kernels to test; test_kernel_loading.py runs everywhere.
collect_ignore = [] if ISAS else ["test_native_ops.py", "test_native_attention.py", "test_kernel_threads.py"]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set that the test runs with, on two threads."""
    assert cpu.native is not None
    before, threads = cpu.isa(), cpu.native.num_threads()
    cpu.native.select_isa(request.param)
    cpu.set_num_threads(2)
    torch.manual_seed(0)
    yield request.param
    cpu.native.select_isa(before)
    cpu.set_num_threads(threads)
