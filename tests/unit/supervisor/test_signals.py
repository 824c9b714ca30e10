"""SIGTERM at a container's first process while it starts."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import asyncio, os, signal
from gllm.apps.cli import main
from gllm.supervisor.signals import handle_signals

async def run():
    got = asyncio.Event()
    with handle_signals(terminate=got.set, interrupt=got.set):
        await asyncio.wait_for(got.wait(), 10)
    print("ended in order")

os.getpid, own = lambda: 1, os.getpid()
main.app = lambda: (os.kill(own, signal.SIGTERM), asyncio.run(run()))
main.main()
"""


def test_sigterm_before_there_is_a_handler_waits_for_it() -> None:
    """Linux ignores it otherwise, and the pod lives until its grace period is over."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "ended in order"), done.stderr
