"""A child process's link to its supervisor: the child reports `ProcessStatus`, and ends with the supervisor."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator

import zmq
import zmq.asyncio

from gllm.config import Config
from gllm.wire.messages import ProcessStatus, SupervisorToProcess
from gllm.wire.transport import configure_socket, decoder, encode

SUPERVISOR_PID_VARIABLE = "GLLM_SUPERVISOR_PID"
"""Environment variable with the supervisor's process id."""

_PR_SET_PDEATHSIG = 1

_FLUSH_MILLISECONDS = 1000
"""Maximum time that a closing child waits for its last report to be sent; the supervisor reads within milliseconds."""

_decoder = decoder(SupervisorToProcess)


def die_with_parent() -> None:
    """Ask the kernel to send SIGKILL to this process when its parent ends, so that it never outlives its supervisor.

    Linux only; elsewhere a no-op. The kernel watches the parent *thread*: it sends the signal when the thread that
    started this process ends.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # If the parent died before the call above, the kernel never sends the signal.
    supervisor = os.environ.get(SUPERVISOR_PID_VARIABLE)
    if supervisor is not None and os.getppid() != int(supervisor):
        os.kill(os.getpid(), signal.SIGKILL)


class SupervisorLink:
    """The gateway's end of the control socket, for asyncio. Without a `run_dir` it sends and receives nothing."""

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
        """Yield the supervisor's messages, until cancelled. Raises msgspec.DecodeError for an invalid one."""
        if self._socket is None:
            await asyncio.Event().wait()
            return
        while True:
            message: SupervisorToProcess = _decoder.decode(await self._socket.recv())
            yield message

    def close(self) -> None:
        """Send what is queued, then close."""
        if self._context is not None:
            self._context.destroy(linger=_FLUSH_MILLISECONDS)
            self._context = self._socket = None


class StatusReporter:
    """An engine's or worker's end of the control socket; `report` never blocks. Without a `run_dir` it does nothing."""

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

        `failed` and `hung` are final: the report is flushed before this returns, so that the caller may exit at once,
        and later reports are dropped. Their `detail` is the line that the user reads.
        """
        if self._context is None:
            return
        # The queue has no bound, so this does not block; NOBLOCK would raise if that ever changed.
        self._socket.send(_status(self._config, self._role, state, detail, progress), zmq.NOBLOCK)
        if state in ("failed", "hung"):
            self.close()

    def close(self) -> None:
        """Send what is queued, then close."""
        if self._context is not None:
            self._context.destroy(linger=_FLUSH_MILLISECONDS)
            self._context = None


def _status(config: Config, role: str, state: str, detail: str, progress: float) -> bytes:
    return encode(
        ProcessStatus(role=role, epoch=config.epoch, pid=os.getpid(), state=state, detail=detail, progress=progress)
    )
