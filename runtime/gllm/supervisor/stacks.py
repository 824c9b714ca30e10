"""Python stacks of the processes of a group that hangs: what each thread does at the moment, for the log."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gllm.config import Config
    from gllm.supervisor.process import Child

_log = logging.getLogger(__name__)

_FOR_SUPERVISOR = signal.SIGUSR2
_WAIT_SECONDS = 1.0
"""A process answers within milliseconds, whatever its threads do, unless the kernel does not let it run."""
_LOOK_SECONDS = 0.2
"""What has not grown for so long is complete."""
_NOTHING = "tells no stacks: it has not started yet, or the kernel does not let it run"


def show_stacks_on_signal(config: Config | None = None, role: str = "") -> None:
    """SIGUSR1 writes the stacks of all threads of this process to stderr, SIGUSR2 those of a child to its supervisor.

    The signal handler is C code: it needs no lock and works while every thread is stuck.
    """
    faulthandler.register(signal.SIGUSR1)
    if config is not None and config.run_dir:
        # faulthandler keeps the file open.
        faulthandler.register(_FOR_SUPERVISOR, _file(config.run_dir, role, config.epoch).open("wb"))


async def log_stacks(children: Sequence[Child], config: Config) -> None:
    """Make the children tell their stacks, and log them line by line under the role of each. Takes a second at most."""
    files = {child: _file(config.run_dir, child.role, config.epoch) for child in children}
    for child, path in files.items():
        # One that has not made its file yet does not know the signal, and would die of it.
        if path.exists():
            child.send(_FOR_SUPERVISOR)
    deadline = time.monotonic() + _WAIT_SECONDS
    texts: dict[Child, str] = {}
    while time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_SECONDS)
        before, texts = texts, {child: _read(path) for child, path in files.items()}
        if texts == before and all(text or child.exit_status is not None for child, text in texts.items()):
            break
    for child, text in texts.items():
        silent = [_NOTHING] if child.exit_status is None else []
        for line in filter(None, text.splitlines() or silent):
            _log.error("%s %s", child.role, line)


def _file(run_dir: str, role: str, epoch: int) -> Path:
    return Path(run_dir) / f"stacks-{role}-{epoch}"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
