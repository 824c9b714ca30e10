"""Stacks of all threads of processes that hang, for the log."""

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
    from gllm.supervisor.child_process import ChildProcess

_log = logging.getLogger(__name__)

_FOR_SUPERVISOR = signal.SIGUSR2
_WAIT_SECONDS = 1.0
"""Maximum time to wait for the stacks. A process writes them within milliseconds if the kernel lets it run."""
_POLL_SECONDS = 0.2
"""A file that has not grown for this long is complete."""
_NO_STACKS = "wrote no stacks: it has not started yet, or the kernel does not let it run"


def show_stacks_on_signal(config: Config | None = None, role: str = "") -> None:
    """Write the stacks of all threads on SIGUSR1 to stderr, and on SIGUSR2 to a file for the supervisor.

    The signal handler is C code: it takes no lock and works while every thread is blocked.
    """
    faulthandler.register(signal.SIGUSR1)
    if config is not None and config.run_dir:
        # faulthandler keeps the file open.
        faulthandler.register(_FOR_SUPERVISOR, _file(config.run_dir, role, config.epoch).open("wb"))


async def log_stacks(children: Sequence[ChildProcess], config: Config) -> None:
    """Log the stacks of the children, each line with its child's role. Takes at most a second."""
    files = {child: _file(config.run_dir, child.role, config.epoch) for child in children}
    for child, path in files.items():
        # A child without its file has not installed the handler yet: the signal would end it.
        if path.exists():
            child.send(_FOR_SUPERVISOR)
    deadline = time.monotonic() + _WAIT_SECONDS
    texts: dict[ChildProcess, str] = {}
    while time.monotonic() < deadline:
        await asyncio.sleep(_POLL_SECONDS)
        before, texts = texts, {child: _read(path) for child, path in files.items()}
        if texts == before and all(text or child.exit_status is not None for child, text in texts.items()):
            break
    for child, text in texts.items():
        silent = [_NO_STACKS] if child.exit_status is None else []
        for line in filter(None, text.splitlines() or silent):
            _log.error("%s %s", child.role, line)


def _file(run_dir: str, role: str, epoch: int) -> Path:
    return Path(run_dir) / f"stacks-{role}-{epoch}"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
