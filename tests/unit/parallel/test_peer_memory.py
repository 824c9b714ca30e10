"""Peer memory without a GPU: the ranks agree whether they have it, and a group chooses by size and type."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]

from gllm.parallel.cuda_driver import DriverError
from gllm.parallel.peer_group import PeerGroup
from gllm.parallel.peer_memory import NoPeerMemory, Rendezvous, share, share_with
from gllm.parallel.tensor_group import UnconnectedGroup

RANKS = [4, 5, 6]
NBYTES = 64


class Machine:
    """The memory of all GPUs, in blocks at addresses. A handle is an address in hex digits."""

    def __init__(self) -> None:
        self.blocks: dict[int, bytearray] = {}
        self.lock = threading.Lock()


class FakeDriver:
    """Each process sees another's block `shift` higher than it is. `broken`: the calls that fail."""

    def __init__(self, machine: Machine, rank: int, broken: str = "") -> None:
        self.machine, self.rank, self.broken = machine, rank, broken
        self.mapped: list[int] = []
        self.shift = 10_000_000 * (rank + 1)

    def _check(self, call: str) -> None:
        if self.broken == call:
            raise DriverError(f"{call}: refused")

    def device_id(self) -> str:
        return f"gpu-{self.rank}"

    def has_nvlink(self, device_id: str) -> bool:
        self._check("query")
        return self.broken != "pcie"

    def allocate(self, nbytes: int, fill: int) -> int:
        self._check("allocate")
        with self.machine.lock:
            address = 1000 * (len(self.machine.blocks) + 1)
            self.machine.blocks[address] = bytearray(fill.to_bytes(2, "little", signed=True) * (nbytes // 2))
        return address

    def free(self, address: int) -> None:
        del self.machine.blocks[address]

    def export(self, address: int) -> bytes:
        self._check("export")
        return address.to_bytes(8, "little")

    def map(self, handle: bytes) -> int:
        self._check("map")
        self.mapped.append(int.from_bytes(handle, "little") + self.shift)
        return self.mapped[-1]

    def unmap(self, address: int) -> None:
        self.mapped.remove(address)

    def _at(self, address: int) -> tuple[bytearray, int]:
        address -= self.shift if address >= self.shift else 0
        return self.machine.blocks[address // 1000 * 1000], address % 1000

    def write(self, address: int, content: bytes) -> None:
        self._check("write")
        if self.broken == "lost" and address >= self.shift:
            return
        block, offset = self._at(address)
        block[offset : offset + len(content)] = content

    def read(self, address: int, nbytes: int) -> bytes:
        self._check("read")
        block, offset = self._at(address)
        return bytes(block[offset : offset + nbytes])


def on_all_ranks(run: Callable[[Rendezvous], Any]) -> list[Any]:
    store = HashStore()
    store.set_timeout(timedelta(seconds=10))
    with ThreadPoolExecutor(len(RANKS)) as pool:
        return list(pool.map(lambda rank: run(Rendezvous(store, RANKS, rank)), RANKS))


def test_every_rank_reaches_every_share() -> None:
    machine = Machine()
    drivers = {rank: FakeDriver(machine, rank) for rank in RANKS}
    addresses = on_all_ranks(lambda rendezvous: share_with(drivers[rendezvous.rank], rendezvous, NBYTES, -32768))
    for rank, own in zip(RANKS, addresses, strict=True):
        assert len({address % 1_000_000 for address in own}) == len(RANKS)
        assert [address % 1_000_000 for address in own] == [address % 1_000_000 for address in addresses[0]]
        assert len(drivers[rank].mapped) == len(RANKS) - 1
    # The check of the connections leaves nothing behind.
    assert all(block == bytearray(b"\x00\x80" * (NBYTES // 2)) for block in machine.blocks.values())
    assert len(machine.blocks) == len(RANKS)


@pytest.mark.parametrize("broken", ["allocate", "export", "query", "pcie", "map", "write", "lost", "read"])
@pytest.mark.parametrize("at", RANKS)
def test_one_obstacle_is_told_to_all_ranks_and_nothing_stays_allocated(broken: str, at: int) -> None:
    machine = Machine()
    drivers = {rank: FakeDriver(machine, rank, broken if rank == at else "") for rank in RANKS}

    def run(rendezvous: Rendezvous) -> str:
        with pytest.raises(NoPeerMemory) as error:
            share_with(drivers[rendezvous.rank], rendezvous, NBYTES, 0)
        return str(error.value)

    reasons = on_all_ranks(run)
    assert len(set(reasons)) == 1
    if broken != "lost":  # which the receivers notice
        assert f"(rank {at})" in reasons[0]
    assert not machine.blocks
    assert not any(driver.mapped for driver in drivers.values())


def test_without_a_boot_id_all_ranks_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("gllm.parallel.peer_memory._BOOT_ID", tmp_path / "boot_id")
    machine = Machine()

    def run(rendezvous: Rendezvous) -> None:
        with pytest.raises(NoPeerMemory, match="boot_id"):
            share_with(FakeDriver(machine, rendezvous.rank), rendezvous, NBYTES, 0)

    on_all_ranks(run)
    assert not machine.blocks


def test_the_switch_of_nccl_holds_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")

    def run(rendezvous: Rendezvous) -> None:
        with pytest.raises(NoPeerMemory, match="NCCL_P2P_DISABLE is set"):
            share(rendezvous, torch.device("cuda", 0), NBYTES)

    on_all_ranks(run)


class CountingAllReduce:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x


@pytest.mark.parametrize(
    ("shape", "dtype", "calls"),
    [
        ((10, 10), torch.bfloat16, [1, 0]),
        ((1, 3), torch.float16, [1, 0]),
        ((10, 11), torch.bfloat16, [0, 1]),
        ((2, 500), torch.bfloat16, [0, 1]),
        ((2, 501), torch.bfloat16, [0, 0]),
        ((10, 10), torch.float32, [0, 0]),
        ((10, 10), torch.int16, [0, 0]),
    ],
)
def test_the_all_reduce_is_chosen_by_size_and_type(
    shape: tuple[int, int], dtype: torch.dtype, calls: list[int]
) -> None:
    inner, all_reduces = UnconnectedGroup(2, 1), [CountingAllReduce(100), CountingAllReduce(1000)]
    group = PeerGroup(inner, all_reduces)
    x = torch.zeros(shape, dtype=dtype)
    assert group.all_reduce(x) is x
    assert [all_reduce.calls for all_reduce in all_reduces] == calls
    assert (group.size, group.rank) == (2, 1)
    assert group.broadcast(x) is x
