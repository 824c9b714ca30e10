"""Peer memory on two GPUs: all-reduces with equal bits on both: any size, in graphs, with slow peers; stage links."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fixtures.ports import free_port

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")]

RANKS = 2
SECONDS = 90
HIDDEN = 80
MOST_TOKENS = 500
MOST_SAMPLED = 300


def _run(check: Callable[[Any, int], None], pp: int, rank: int, port: int, failures: Any) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(RANKS),
    }
    from gllm.parallel.layout import RankCoords
    from gllm.parallel.world import join_world, leave_world

    try:
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
        coords = RankCoords(pp=pp, tp=RANKS // pp, rank=rank)
        sizes = {"hidden_size": HIDDEN, "most_tokens": MOST_TOKENS, "most_sampled": MOST_SAMPLED}
        world = join_world(coords, **sizes, dtype=torch.bfloat16, device=device)
        with torch.inference_mode():
            check(world, rank)
        torch.cuda.synchronize()
        leave_world()
    except BaseException:
        failures.put(traceback.format_exc())
        raise


def on_two_gpus(check: Callable[[Any, int], None], pp: int = 1) -> None:
    context = multiprocessing.get_context("spawn")
    failures: Any = context.Queue()
    port = free_port()
    processes = [context.Process(target=_run, args=(check, pp, rank, port, failures)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    stuck = [process for process in processes if process.is_alive()]
    for process in stuck:
        process.kill()
    assert failures.empty(), failures.get()
    assert not stuck
    assert [process.exitcode for process in processes] == [0] * RANKS


def _values(rows: int, rank: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    x = torch.randn(rows, HIDDEN, generator=generator).to(dtype)
    x.view(-1)[::7] = -0.0  # minus zero means empty
    return x.to("cuda")


def _same_on_all_ranks(group: Any, x: torch.Tensor) -> bool:
    return all(torch.equal(other, x) for other in group.all_gather(x.view(torch.int32)).view(x.dtype).unbind(0))


def _all_reduces(world: Any, rank: int) -> None:
    from gllm.parallel.peer_group import PeerGroup

    group = world.group
    assert isinstance(group, PeerGroup)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for seed, rows in enumerate((1, 3, 64, 700, 20_000, 50_000, 157_286, 160_000)):  # one shot, two shots, NCCL
            got = group.all_reduce(_values(rows, rank, seed, dtype))
            wanted = sum(_values(rows, other, seed, dtype).float() for other in range(RANKS))
            assert torch.equal(got, wanted.to(dtype)), (dtype, rows)
            assert dtype == torch.float32 or _same_on_all_ranks(group, got)


def test_all_reduces_are_exact_and_equal_on_all_ranks() -> None:
    on_two_gpus(_all_reduces)


def _graphs(world: Any, rank: int) -> None:
    rows = [1, 8, 300, 40_000, 64, 2000, 50_000, 5, 31]
    inputs = [_values(n, rank, seed) for seed, n in enumerate(rows)]
    wanted = [sum(_values(n, other, seed).float() for other in range(RANKS)).bfloat16() for seed, n in enumerate(rows)]
    outs = [torch.empty_like(x) for x in inputs]
    world.group.all_reduce(inputs[0].clone())
    torch.cuda.synchronize()
    graphs = []
    for some in (range(4), range(4, 9)):  # an even and an odd number of all-reduces, since two halves take turns
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for index in some:
                outs[index].copy_(world.group.all_reduce(inputs[index].clone()))
        graphs.append((graph, some))
    chooser = torch.Generator().manual_seed(3)
    for _ in range(200):
        slow, kind, checked = torch.randint(0, 6, (3,), generator=chooser).tolist()
        for out in outs:
            out.zero_()
        if slow == rank:
            torch.cuda._sleep(500_000)
        used: list[int] = []
        for step in range(1 + kind % 3):
            if kind == 5:
                outs[2 + step].copy_(world.group.all_reduce(inputs[2 + step].clone()))
                used.append(2 + step)
            else:
                graph, some = graphs[(kind + step) % 2]
                graph.replay()
                used += some
        if checked < 4:  # otherwise the next ones follow at once
            assert all(torch.equal(outs[index], wanted[index]) for index in used)


def test_graphs_and_single_all_reduces_follow_each_other_in_any_order() -> None:
    on_two_gpus(_graphs)


def _messages(world: Any, rank: int) -> None:
    from gllm.parallel.copy_link import CopyReceiver, CopySender

    chooser = torch.Generator().manual_seed(4)
    got = []
    for number in range(400):
        rows, slow = 1 + int(torch.randint(0, MOST_TOKENS, (), generator=chooser)), number % 50
        if rank == 0:
            assert isinstance(world.after, CopySender)
            message = torch.empty(rows, HIDDEN, dtype=torch.bfloat16, device="cuda")
            if slow == 20:
                torch.cuda._sleep(3_000_000)  # the receiver waits
            world.after.send(message.fill_(number % 251))
        else:
            assert isinstance(world.before, CopyReceiver)
            if slow == 40:
                torch.cuda._sleep(3_000_000)  # the ring is full
            got.append((number, rows, world.before.receive(rows)))
    for number, rows, message in got:
        assert message.shape == (rows, HIDDEN)
        assert bool((message == number % 251).all()), number


def test_messages_arrive_whole_and_in_order_through_a_full_ring() -> None:
    on_two_gpus(_messages, pp=2)


def _tokens(world: Any, rank: int) -> None:
    """The last stage runs up to three steps ahead of what the first one receives."""
    chooser = torch.Generator().manual_seed(5)
    sizes = (1 + torch.randint(0, MOST_SAMPLED, (400,), generator=chooser)).tolist()
    got = []
    for number, rows in enumerate(sizes):
        if rank == 1:
            world.to_first.send(torch.full((rows,), number, device="cuda"))
        elif number >= 3:
            got.append(world.from_last.receive(sizes[number - 3]))
    if rank == 0:
        got += [world.from_last.receive(rows) for rows in sizes[-3:]]
    for number, tokens in enumerate(got):
        assert tokens.dtype == torch.int64
        assert tokens.tolist() == [number] * sizes[number]


@pytest.mark.parametrize("disabled", ["0", "1"], ids=["peer-memory", "nccl"])
def test_sampled_tokens_return_to_the_first_stage(disabled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_P2P_DISABLE", disabled)
    on_two_gpus(_tokens, pp=2)


def _unread(world: Any, rank: int) -> None:
    """After the last request its tokens are not read. A full ring would keep the sender's device busy for ever."""
    if rank == 1:
        for number in range(3):  # pp + 1
            world.to_first.send(torch.full((MOST_SAMPLED,), number, device="cuda"))
        torch.cuda.synchronize()


def test_tokens_that_nobody_reads_do_not_block_the_device() -> None:
    on_two_gpus(_unread, pp=2)


def _without_peers(world: Any, rank: int) -> None:
    from gllm.parallel.stage_link import DistributedReceiver, DistributedSender
    from gllm.parallel.tensor_group import DistributedGroup

    if world.coords.tp > 1:
        assert isinstance(world.group, DistributedGroup)
    elif rank == 0:
        assert isinstance(world.after, DistributedSender)
        world.after.send(_values(3, rank=0, seed=1))
    else:
        assert isinstance(world.before, DistributedReceiver)
        assert torch.equal(world.before.receive(3), _values(3, rank=0, seed=1))


@pytest.mark.parametrize("pp", [1, 2])
def test_nccl_remains_where_peer_access_is_switched_off(pp: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    on_two_gpus(_without_peers, pp)
