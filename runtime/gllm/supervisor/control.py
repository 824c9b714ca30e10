"""The supervisor's end of the control socket: it receives `ProcessStatus` and sends orders to the gateway."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from gllm.config import Config
from gllm.wire.messages import ProcessStatus, SupervisorToProcess
from gllm.wire.transport import configure_socket, decoder, encode

_log = logging.getLogger(__name__)
_decoder = decoder(ProcessStatus)

_LONGEST_BASE = 60
"""A Unix socket's path has at most 107 bytes; the folder's name and the longest socket name need about 45."""


def make_run_dir() -> Path:
    """Make a folder for a group's Unix sockets, mode 0700, in XDG_RUNTIME_DIR or else in /tmp."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if not base or len(os.fsencode(base)) > _LONGEST_BASE or not os.access(base, os.W_OK | os.X_OK):
        base = "/tmp"
    return Path(tempfile.mkdtemp(prefix="gllm-", dir=base))


class ControlServer:
    """Binds `config.control_address`; `receive` runs until cancelled."""

    def __init__(self, config: Config, on_status: Callable[[ProcessStatus], None]) -> None:
        self._on_status = on_status
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        configure_socket(self._socket)
        self._socket.bind(config.control_address)

    async def receive(self) -> None:
        """Call the callback with every status.

        A status that does not decode, or whose role is not the sender's, is logged and dropped.
        """
        while True:
            identity, *frames = await self._socket.recv_multipart()
            try:
                (frame,) = frames
                status: ProcessStatus = _decoder.decode(frame)
                if status.role.encode() != identity:
                    raise ValueError(f"{identity!r} reports as {status.role!r}")
            except (ValueError, msgspec.DecodeError) as error:
                _log.warning("dropped a control message", extra={"error": error})
                continue
            self._on_status(status)

    def send(self, role: str, message: SupervisorToProcess) -> None:
        """Send a message to the child with this role. It is dropped if the child has not reported yet or has exited."""
        self._socket.send_multipart([role.encode(), encode(message)], zmq.NOBLOCK)

    def close(self) -> None:
        self._context.destroy(linger=0)
