"""Links between stages: activations to the next stage, and sampled tokens from the last stage to the first.

Both ends know the size of a tensor from the step.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import torch
import torch.distributed as dist

from gllm.parallel.exchange import exchange


class Receiver(Protocol):
    def receive(self, num_rows: int) -> torch.Tensor:
        """Return [num_rows, ...] from the other stage, in the order of its sends."""


class Sender(Protocol):
    def send(self, rows: torch.Tensor) -> None:
        """Send [num_rows, ...], contiguous, to the other stage, without waiting until it arrives.

        The caller must not change `rows` afterwards.
        """


class Loopback:
    """Both ends of the link from the last stage to the first, where one stage is both."""

    def __init__(self) -> None:
        self._sent: deque[torch.Tensor] = deque()

    def send(self, rows: torch.Tensor) -> None:
        self._sent.append(rows)

    def receive(self, num_rows: int) -> torch.Tensor:
        rows = self._sent.popleft()
        assert len(rows) == num_rows
        return rows


class DistributedReceiver:
    """Receives from the rank `source`, over a group that only this link uses."""

    def __init__(
        self,
        group: dist.ProcessGroup,
        source: int,
        row_shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._group = group
        self._source = source
        self._row_shape = row_shape
        self._dtype = dtype
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @exchange
    def receive(self, num_rows: int) -> torch.Tensor:
        if self._stream is None:
            return self._receive(num_rows)
        # The transfer has its own stream, so that it does not wait for the compute of the previous step.
        with torch.cuda.stream(self._stream):
            rows = self._receive(num_rows)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        rows.record_stream(current)
        return rows

    def _receive(self, num_rows: int) -> torch.Tensor:
        rows = torch.empty(num_rows, *self._row_shape, dtype=self._dtype, device=self._device)
        dist.recv(rows, self._source, group=self._group)
        return rows


class DistributedSender:
    """Sends to the rank `target`. Keeps a tensor alive until it is sent."""

    def __init__(self, group: dist.ProcessGroup, target: int, most_unsent: int) -> None:
        """most_unsent: maximum number of sends in progress; more than the micro-batches in flight."""
        self._group = group
        self._target = target
        self._most_unsent = most_unsent
        self._unsent: deque[tuple[Any, torch.Tensor]] = deque()

    @exchange
    def send(self, rows: torch.Tensor) -> None:
        while self._unsent and (len(self._unsent) >= self._most_unsent or self._unsent[0][0].is_completed()):
            self._unsent.popleft()[0].wait()
        self._unsent.append((dist.isend(rows, self._target, group=self._group), rows))


class StagedReceiver:
    """Receives to a CUDA device through the CPU: for stages that share a GPU, which NCCL refuses."""

    def __init__(self, inner: DistributedReceiver, device: torch.device) -> None:
        self._inner = inner
        self._device = device

    def receive(self, num_rows: int) -> torch.Tensor:
        return self._inner.receive(num_rows).to(self._device)


class StagedSender:
    """Sends from a CUDA device through the CPU; waits for the device."""

    def __init__(self, inner: DistributedSender) -> None:
        self._inner = inner

    def send(self, rows: torch.Tensor) -> None:
        self._inner.send(rows.cpu())
