"""Memory of each rank's GPU that the other ranks have mapped: for GPUs of one machine that NVLink joins."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from gllm.parallel.cuda_driver import CudaDriver, DriverError

_PROBE_BYTES = 16
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class NoPeerMemory(RuntimeError):
    """The ranks cannot share memory; says why. All ranks get this error, or none."""


class Driver(Protocol):
    """See `CudaDriver`."""

    def device_id(self) -> str: ...
    def has_nvlink(self, device_id: str) -> bool: ...
    def allocate(self, nbytes: int, fill: int) -> int: ...
    def free(self, address: int) -> None: ...
    def export(self, address: int) -> bytes: ...
    def map(self, handle: bytes) -> int: ...
    def unmap(self, address: int) -> None: ...
    def write(self, address: int, content: bytes) -> None: ...
    def read(self, address: int, nbytes: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """The ranks that want to share memory, and the store where they leave messages for each other."""

    store: Store
    """For these ranks and this purpose alone: keys are used once."""
    ranks: Sequence[int]
    rank: int

    def exchange(self, subject: str, message: str) -> list[str]:
        """Return the messages of all ranks, in order."""
        self.store.set(f"{subject}/{self.rank}", message)
        return [self.store.get(f"{subject}/{rank}").decode() for rank in self.ranks]

    def agree(self, subject: str, obstacle: str) -> None:
        """Raise NoPeerMemory on all ranks if one has an obstacle."""
        for rank, found in zip(self.ranks, self.exchange(subject, obstacle), strict=True):
            if found:
                raise NoPeerMemory(f"{found} (rank {rank})")


def share(rendezvous: Rendezvous, device: torch.device, nbytes: int, fill: int = 0) -> list[int]:
    """Allocate memory on each rank's GPU, and map it in all processes. All ranks call it together.

    nbytes: this rank's share, even, at least 16 for each rank; ranks may differ. fill: all its 16-bit words.
    Returns this process's addresses of each rank's memory, in order of ranks. The memory lives as long as the process.
    Raises NoPeerMemory on all ranks if one of them cannot map or reach another's memory.
    """
    driver: Driver | None = None
    obstacle = "NCCL_P2P_DISABLE is set" if os.environ.get("NCCL_P2P_DISABLE", "0") not in ("", "0") else ""
    try:
        driver = CudaDriver(device)
    except (OSError, AttributeError) as error:  # no driver, or one without these calls
        obstacle = obstacle or str(error)
    rendezvous.agree("begin", obstacle)
    assert driver is not None
    return share_with(driver, rendezvous, nbytes, fill)


def share_with(driver: Driver, rendezvous: Rendezvous, nbytes: int, fill: int) -> list[int]:
    """`share` with a given driver."""
    own, obstacle, offer = 0, "", {"machine": "", "device": driver.device_id(), "handle": ""}
    try:
        offer["machine"] = _BOOT_ID.read_text().strip()
        own = driver.allocate(nbytes, fill)
        offer["handle"] = driver.export(own).hex()
    except (DriverError, OSError) as error:  # a sandbox such as gVisor may hide the boot id
        obstacle = str(error)
    offers = [json.loads(text) for text in rendezvous.exchange("offer", json.dumps(offer))]
    mapped: dict[int, int] = {}
    try:
        rendezvous.agree("reach", obstacle or _out_of_reach(driver, offer, offers))
        rendezvous.agree("map", _map(driver, rendezvous, offers, mapped))
        addresses = [mapped.get(rank, own) for rank in rendezvous.ranks]
        _probe(driver, rendezvous, addresses)
    except NoPeerMemory:
        for address in mapped.values():
            driver.unmap(address)
        rendezvous.exchange("unmapped", "")
        if own:
            driver.free(own)
        raise
    driver.write(own, fill.to_bytes(2, "little", signed=fill < 0) * (_PROBE_BYTES * len(rendezvous.ranks) // 2))
    rendezvous.exchange("ready", "")
    return addresses


def _out_of_reach(driver: Driver, own: dict[str, str], offers: list[dict[str, str]]) -> str:
    """Return why this GPU cannot reach the others, if so."""
    if any(other["machine"] != own["machine"] for other in offers):
        return "the ranks are on several machines"
    try:
        reached = [driver.has_nvlink(other["device"]) for other in offers if other["device"] != own["device"]]
    except DriverError as error:
        return str(error)
    return "" if all(reached) else "no NVLink joins the GPUs, or a process sees only its own"


def _map(driver: Driver, rendezvous: Rendezvous, offers: list[dict[str, str]], mapped: dict[int, int]) -> str:
    """Map the memory of the other ranks into `mapped`; return what went wrong."""
    try:
        for rank, offer in zip(rendezvous.ranks, offers, strict=True):
            if rank != rendezvous.rank:
                mapped[rank] = driver.map(bytes.fromhex(offer["handle"]))
    except DriverError as error:
        return str(error)
    return ""


def _probe(driver: Driver, rendezvous: Rendezvous, addresses: list[int]) -> None:
    """Check that what each rank writes arrives: some virtual machines map memory and then lose writes."""
    obstacle, place = "", rendezvous.ranks.index(rendezvous.rank)
    try:
        for to, address in enumerate(addresses):
            driver.write(address + place * _PROBE_BYTES, _pattern(place, to))
    except DriverError as error:
        obstacle = str(error)
    rendezvous.agree("written", obstacle)
    try:
        found = driver.read(addresses[place], _PROBE_BYTES * len(addresses))
        if found != b"".join(_pattern(sender, place) for sender in range(len(addresses))):
            obstacle = "a write to another GPU's memory did not arrive"
    except DriverError as error:
        obstacle = str(error)
    rendezvous.agree("arrived", obstacle)


def _pattern(sender: int, receiver: int) -> bytes:
    return bytes((16 * sender + receiver + 1) % 251 + index for index in range(_PROBE_BYTES // 4)) * 4
