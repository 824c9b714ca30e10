"""The link of a process to its supervisor: sends `ProcessStatus`; the gateway also receives its orders."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import zmq
import zmq.asyncio

from gllm.config import Config
from gllm.wire.messages import ProcessStatus, SupervisorToProcess
from gllm.wire.transport import configure_socket, decoder, encode

_FLUSH_MILLISECONDS = 1000
"""How long a closing child waits for its last words to leave; the supervisor reads within milliseconds."""

_decoder = decoder(SupervisorToProcess)


class SupervisorLink:
    """The asyncio end, for the gateway. With an empty `run_dir` nothing is sent and nothing ever arrives."""

    def __init__(self, config: Config, role: str) -> None:
        self._config = config
        self._role = role
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        if config.run_dir:
            self._context = zmq.asyncio.Context()
            self._socket = self._context.socket(zmq.DEALER)
            configure_socket(self._socket, role)
            self._socket.connect(config.control_address)

    async def report(self, state: str, detail: str = "", progress: float = 0.0) -> None:
        """Send a `ProcessStatus`; `state` is starting, loading, ready, draining or failed."""
        if self._socket is not None:
            await self._socket.send(_status(self._config, self._role, state, detail, progress))

    async def messages(self) -> AsyncIterator[SupervisorToProcess]:
        """What the supervisor says, until cancelled. A frame that does not decode ends in msgspec.DecodeError."""
        if self._socket is None:
            await asyncio.Event().wait()
            return
        while True:
            message: SupervisorToProcess = _decoder.decode(await self._socket.recv())
            yield message

    def close(self) -> None:
        """Send what is still queued, then close."""
        if self._context is not None:
            self._context.destroy(linger=_FLUSH_MILLISECONDS)
            self._context = self._socket = None


class StatusReporter:
    """The plain end, for the engine and the workers: `report` never blocks. A no-op with an empty `run_dir`."""

    def __init__(self, config: Config, role: str) -> None:
        self._config = config
        self._role = role
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        if config.run_dir:
            self._context = zmq.Context()
            self._socket = self._context.socket(zmq.DEALER)
            configure_socket(self._socket, role)
            self._socket.connect(config.control_address)

    def report(self, state: str, detail: str = "", progress: float = 0.0) -> None:
        """Send a `ProcessStatus`; `state` is starting, loading, ready, draining, failed or hung.

        `failed` or `hung` is a process's last word: it is flushed before this returns, so the caller may exit at once,
        and later reports are dropped. Its `detail` is the one line the user will read.
        """
        if self._context is None:
            return
        # Without a bound on the queue this cannot block; NOBLOCK turns a wrong assumption into an error.
        self._socket.send(_status(self._config, self._role, state, detail, progress), zmq.NOBLOCK)
        if state in ("failed", "hung"):
            self.close()

    def close(self) -> None:
        """Send what is still queued, then close."""
        if self._context is not None:
            self._context.destroy(linger=_FLUSH_MILLISECONDS)
            self._context = None


def _status(config: Config, role: str, state: str, detail: str, progress: float) -> bytes:
    return encode(
        ProcessStatus(role=role, epoch=config.epoch, pid=os.getpid(), state=state, detail=detail, progress=progress)
    )
