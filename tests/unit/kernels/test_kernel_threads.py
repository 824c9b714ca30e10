"""The kernels' thread pool under concurrent callers, forks and changes of size."""

from __future__ import annotations

import os
import threading
import time

import torch

from gllm.layers.ops.native_ops import NativeOps
from gllm_kernels import cpu


def test_concurrent_callers_get_their_own_results(isa: str) -> None:
    ops = NativeOps()
    packed = ops.pack_linear(torch.randn(256, 128))
    inputs = [torch.randn(40, 128) for _ in range(4)]
    expected = [ops.linear(x, packed, None) for x in inputs]
    wrong: list[int] = []

    def call(index: int) -> None:
        for _ in range(200):
            if not ops.linear(inputs[index], packed, None).equal(expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_forked_child_starts_its_own_threads(isa: str) -> None:
    ops = NativeOps()
    packed, x = ops.pack_linear(torch.randn(256, 128)), torch.randn(40, 128)
    want = ops.linear(x, packed, None)
    child = os.fork()
    if child == 0:
        os._exit(0 if ops.linear(x, packed, None).equal(want) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert ops.linear(x, packed, None).equal(want)


def test_helpers_wake_after_sleep_and_after_a_change_of_number(isa: str) -> None:
    ops = NativeOps()
    packed, x = ops.pack_linear(torch.randn(256, 128)), torch.randn(40, 128)
    want = ops.linear(x, packed, None)
    for threads in (2, 4, 1, 3):
        cpu.set_num_threads(threads)
        for pause in (0.0, 0.002, 0.0, 0.02):
            time.sleep(pause)
            assert ops.linear(x, packed, None).equal(want)


def test_idle_helpers_use_no_cpu(isa: str) -> None:
    ops = NativeOps()
    packed, x = ops.pack_linear(torch.randn(256, 128)), torch.randn(40, 128)
    ops.linear(x, packed, None)
    time.sleep(0.01)
    before = time.process_time()
    time.sleep(1)
    # A helper that spins would use the whole second; other tests' threads may use a little.
    assert time.process_time() - before < 0.2
