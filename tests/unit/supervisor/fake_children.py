"""Fake children of a supervisor: small scripts that report, serve, fail or drain on command."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from gllm.supervisor.child_process import Commands

_PREAMBLE = """
import asyncio, os, signal, sys, time
from gllm.config import Config
from gllm.wire.messages import Drain, EngineDown, EngineUp
from gllm.supervisor.link import die_with_parent
from gllm.supervisor.link import StatusReporter, SupervisorLink
from gllm.supervisor.stacks import show_stacks_on_signal
die_with_parent()
config = Config.from_environment()
def note(text):
    with open(os.environ["FAKE_NOTES"], "a") as file:
        file.write(text + "\\n")
"""

ENGINE = """
note(f"engine {config.epoch} start")
status = StatusReporter(config, "engine")
status.report("starting")
time.sleep(0.05)
status.report("ready")
time.sleep(600)
"""

WORKER = """
rank = os.environ["RANK"]
note(f"worker-{rank} {config.epoch} start")
status = StatusReporter(config, f"worker-{rank}")
for step in range(5):
    status.report("loading", "weights", step / 4)
time.sleep(600)
"""

GATEWAY = """
async def main():
    note("gateway start")
    link = SupervisorLink(config, "gateway")
    await link.report("starting")
    async for message in link.messages():
        note(f"gateway got {message}")
        if isinstance(message, EngineUp):
            await asyncio.sleep(0.1)
            await link.report("ready")
        if isinstance(message, Drain):
            await asyncio.sleep(0.2)
            note("gateway drained")
            return
asyncio.run(main())
"""


def fake_commands(folder: Path, *, engine: str = ENGINE, worker: str = WORKER, gateway: str = GATEWAY) -> Commands:
    """Return commands that run the scripts; a preamble defines `config`, `note` and the names of the link."""
    commands = {}
    for role, script in (("engine", engine), ("worker", worker), ("gateway", gateway)):
        path = folder / f"fake_{role}.py"
        path.write_text(textwrap.dedent(_PREAMBLE) + textwrap.dedent(script))
        commands[role] = (sys.executable, str(path))
    return Commands(**commands)
