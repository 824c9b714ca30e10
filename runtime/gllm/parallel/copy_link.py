"""A stage link over peer memory: the sender's copy engine fills a ring on the receiver's GPU.

Each end has a counter that the other one sets. The receiver's stream waits until enough messages have `arrived`; if the
ring is full, the sender's stream waits until enough were `consumed`. A waiting stream holds no multiprocessor. NCCL's
transfers are kernels, which spin while the other end computes, and slow down the products beside them.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import torch

from gllm.parallel.cuda_driver import CudaDriver
from gllm.parallel.exchange import exchange
from gllm.parallel.peer_memory import Rendezvous, share
from gllm.parallel.stage_link import Receiver, Sender

_ALIGNMENT = 256
_COUNTER_BYTES = 4096
"""Memory of a counter: all that a sender shares, and what follows the ring on the receiver's GPU."""


class Driver(Protocol):
    """See `CudaDriver`."""

    def copy(self, target: int, source: int, nbytes: int, stream: torch.cuda.Stream) -> None: ...
    def set_flag(self, address: int, value: int, stream: torch.cuda.Stream) -> None: ...
    def wait_for_flag(self, address: int, value: int, stream: torch.cuda.Stream) -> None: ...


class Ring:
    """Where messages lie in the ring. Both ends place the same messages, so they need not tell each other."""

    def __init__(self, nbytes: int, messages: int = 1) -> None:
        """nbytes: size of the largest message; messages: how many of that size the ring has room for."""
        self.nbytes = -(-nbytes // _ALIGNMENT) * _ALIGNMENT * messages
        self.count = 0
        """Messages that were placed."""
        self._end = 0
        """Where the next message may begin, as if the ring were a line."""
        self._placed: deque[tuple[int, int]] = deque()
        """The begin and the number of messages that may still lie in the ring, the oldest first."""

    def place(self, nbytes: int) -> tuple[int, int]:
        """Return the next message's offset in the ring, and how many messages must be consumed before it is written.

        Raises ValueError if the message is larger than the ring.
        """
        if nbytes > self.nbytes:
            raise ValueError(f"a message of {nbytes} bytes does not fit a ring of {self.nbytes}")
        begin = self._end
        if begin % self.nbytes + nbytes > self.nbytes:
            begin += self.nbytes - begin % self.nbytes
        overwritten = 0
        while self._placed and self._placed[0][0] + self.nbytes < begin + nbytes:
            overwritten = self._placed.popleft()[1]
        self.count += 1
        self._placed.append((begin, self.count))
        self._end = -(-(begin + nbytes) // _ALIGNMENT) * _ALIGNMENT
        return begin % self.nbytes, overwritten


class CopyReceiver:
    """Receives from a `CopySender`. The ring, and behind it the counter of arrived messages, are on this rank's GPU."""

    def __init__(
        self,
        driver: Driver,
        address: int,
        ring: Ring,
        consumed: int,
        row_shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """address, consumed: addresses of the ring and of the sender's counter."""
        self._driver = driver
        self._address, self._arrived, self._consumed = address, address + ring.nbytes, consumed
        self._ring = ring
        self._row_shape = row_shape
        self._dtype = dtype
        self._device = device

    @exchange
    def receive(self, num_rows: int) -> torch.Tensor:
        rows = torch.empty(num_rows, *self._row_shape, dtype=self._dtype, device=self._device)
        stream = torch.cuda.current_stream(self._device)
        offset, _ = self._ring.place(rows.nbytes)
        self._driver.wait_for_flag(self._arrived, self._ring.count, stream)
        self._driver.copy(rows.data_ptr(), self._address + offset, rows.nbytes, stream)
        self._driver.set_flag(self._consumed, self._ring.count, stream)
        return rows


class CopySender:
    """Sends to a `CopyReceiver`."""

    def __init__(self, driver: Driver, address: int, ring: Ring, consumed: int, device: torch.device) -> None:
        """address, consumed: addresses of the receiver's ring and of this rank's counter."""
        self._driver = driver
        self._address, self._arrived, self._consumed = address, address + ring.nbytes, consumed
        self._ring = ring
        # Copies have their own stream, so that the next step does not wait for them.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @exchange
    def send(self, rows: torch.Tensor) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(rows.device))
        offset, overwritten = self._ring.place(rows.nbytes)
        if overwritten:
            self._driver.wait_for_flag(self._consumed, overwritten, self._stream)
        self._driver.copy(self._address + offset, rows.data_ptr(), rows.nbytes, self._stream)
        self._driver.set_flag(self._arrived, self._ring.count, self._stream)
        rows.record_stream(self._stream)


def share_link(
    rendezvous: Rendezvous, device: torch.device, largest: tuple[int, ...], dtype: torch.dtype, most_unread: int = 0
) -> tuple[Receiver | None, Sender | None]:
    """Return this rank's end of a link. Both ranks call this; the first one of `rendezvous.ranks` is the sender.

    largest: the shape of the largest message. most_unread: maximum number of messages that are sent and not received;
    up to it the sender never waits. Without it the ring has room for one message. Raises NoPeerMemory on both ranks.
    """
    sends = rendezvous.rank == rendezvous.ranks[0]
    # One message more than may be unread: a message that does not fit the end of the ring begins at its start.
    ring = Ring(torch.Size(largest).numel() * dtype.itemsize, messages=most_unread + 1)
    consumed, address = share(rendezvous, device, _COUNTER_BYTES + (0 if sends else ring.nbytes))
    driver = CudaDriver(device)
    if sends:
        return None, CopySender(driver, address, ring, consumed, device)
    return CopyReceiver(driver, address, ring, consumed, largest[1:], dtype, device), None
