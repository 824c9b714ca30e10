"""Activations from stage to stage: [num_tokens, hidden] tensors whose size both ends know from the step."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import torch
import torch.distributed as dist

from gllm.parallel.exchange import exchange

_MOST_UNSENT = 8
"""Maximum number of sends in progress: more than the micro-batches in flight between two stages."""


class Receiver(Protocol):
    def receive(self, num_tokens: int) -> torch.Tensor:
        """Return [num_tokens, hidden] from the stage before, in the order of its sends."""


class Sender(Protocol):
    def send(self, hidden: torch.Tensor) -> None:
        """Send [num_tokens, hidden], contiguous, to the stage after, without waiting until it arrives.

        The caller must not change `hidden` afterwards.
        """


class DistributedReceiver:
    """Receives from the rank `source`, over a group that only this pair of ranks uses."""

    def __init__(
        self, group: dist.ProcessGroup, source: int, hidden_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._group = group
        self._source = source
        self._hidden_size = hidden_size
        self._dtype = dtype
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @exchange
    def receive(self, num_tokens: int) -> torch.Tensor:
        if self._stream is None:
            return self._receive(num_tokens)
        # The transfer has its own stream, so that it does not wait for the compute of the previous step.
        with torch.cuda.stream(self._stream):
            hidden = self._receive(num_tokens)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        hidden.record_stream(current)
        return hidden

    def _receive(self, num_tokens: int) -> torch.Tensor:
        hidden = torch.empty(num_tokens, self._hidden_size, dtype=self._dtype, device=self._device)
        dist.recv(hidden, self._source, group=self._group)
        return hidden


class DistributedSender:
    """Sends to the rank `target`. Keeps a tensor alive until it is sent."""

    def __init__(self, group: dist.ProcessGroup, target: int) -> None:
        self._group = group
        self._target = target
        self._unsent: deque[tuple[Any, torch.Tensor]] = deque()

    @exchange
    def send(self, hidden: torch.Tensor) -> None:
        while self._unsent and (len(self._unsent) >= _MOST_UNSENT or self._unsent[0][0].is_completed()):
            self._unsent.popleft()[0].wait()
        self._unsent.append((dist.isend(hidden, self._target, group=self._group), hidden))


class StagedReceiver:
    """Receives to a CUDA device through the CPU: for stages that share a GPU, which NCCL refuses."""

    def __init__(self, inner: DistributedReceiver, device: torch.device) -> None:
        self._inner = inner
        self._device = device

    def receive(self, num_tokens: int) -> torch.Tensor:
        return self._inner.receive(num_tokens).to(self._device)


class StagedSender:
    """Sends from a CUDA device through the CPU; waits for the device."""

    def __init__(self, inner: DistributedSender) -> None:
        self._inner = inner

    def send(self, hidden: torch.Tensor) -> None:
        self._inner.send(hidden.cpu())
