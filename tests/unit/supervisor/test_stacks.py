"""A group that hangs: the stacks of its workers are in the log, with their names, before they are killed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_children import fake_commands
from test_engine_group import CONFIG, FAST, Observer, notes, observe  # noqa: F401
from test_nodes_group import Pair, play

from gllm.supervisor.group_interface import EngineReady, Restarting

HUNG_ENGINE = """
status = StatusReporter(config, "engine")
status.report("ready")
if config.epoch == 0:
    while open(os.environ["FAKE_NOTES"]).read().count("stuck") < config.engine.world_size:
        time.sleep(0.02)
    status.report("hung", "step 1 had no result for 1 s: a worker hangs")
    sys.exit(1)
time.sleep(600)
"""

STUCK_WORKER = """
show_stacks_on_signal(config, f"worker-{os.environ['RANK']}")
import ctypes
def waits_for_a_peer():
    note("stuck")
    while True:
        ctypes.PyDLL(None).sleep(600)  # Holds the interpreter's lock, as a stuck library may.
waits_for_a_peer()
"""

UNKNOWING_WORKER = 'note("stuck")\ntime.sleep(600)'


def stacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Stack lines of workers; those of the engine, which is ending, may be missing."""
    lines = [record.getMessage() for record in caplog.records if record.name == "gllm.supervisor.stacks"]
    return [line for line in lines if not line.startswith("engine ")]


def test_stacks_of_a_stuck_worker_are_logged_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(observer: Observer) -> None:
        await observer.until(EngineReady(1))

    with caplog.at_level(logging.ERROR):
        observer = observe(fake_commands(tmp_path, engine=HUNG_ENGINE, worker=STUCK_WORKER), FAST, scenario)
    assert any(isinstance(event, Restarting) and "a worker hangs" in event.reason for event in observer.events)
    lines = stacks(caplog)
    assert all(line.startswith("worker-0 ") for line in lines)
    assert any("in waits_for_a_peer" in line for line in lines)


def test_a_worker_that_has_not_started_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(observer: Observer) -> None:
        await observer.until(EngineReady(1))

    with caplog.at_level(logging.ERROR):
        observe(fake_commands(tmp_path, engine=HUNG_ENGINE, worker=UNKNOWING_WORKER), FAST, scenario)
    assert stacks(caplog) == ["worker-0 wrote no stacks: it has not started yet, or the kernel does not let it run"]


def test_another_failure_needs_no_stacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(observer: Observer) -> None:
        await observer.until(EngineReady(0))
        os.kill(observer.group.pids["engine"], signal.SIGKILL)
        await observer.until(EngineReady(1))

    engine = HUNG_ENGINE.replace('"hung"', '"ready"').replace("sys.exit(1)", "time.sleep(600)")
    with caplog.at_level(logging.ERROR):
        observe(fake_commands(tmp_path, engine=engine, worker=STUCK_WORKER), FAST, scenario)
    assert stacks(caplog) == []


def test_stacks_of_workers_of_other_nodes_are_logged_there(
    tmp_path: Path,
    notes: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(pair: Pair) -> None:
        pair.slave()
        await pair.group.start()
        await pair.until_event(EngineReady(0))
        await pair.until(lambda: set(pair.group.pids) == {"engine", "worker-0"})
        await pair.until(lambda: all(any(role in line for line in stacks(caplog)) for role in ("worker-0", "worker-1")))

    with caplog.at_level(logging.ERROR):
        play(tmp_path, scenario, worker=STUCK_WORKER, engine=HUNG_ENGINE)
    for role in ("worker-0", "worker-1"):
        assert any(line.startswith(role) and "in waits_for_a_peer" in line for line in stacks(caplog))


def test_a_signal_shows_the_stacks_of_any_process() -> None:
    program = (
        "import time\nfrom gllm.supervisor.stacks import show_stacks_on_signal\n"
        "def sleeps():\n print(flush=True)\n time.sleep(60)\nshow_stacks_on_signal()\nsleeps()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.send_signal(signal.SIGUSR1)
    assert "most recent call first" in process.stderr.readline()
    assert "in sleeps" in process.stderr.readline()
    assert process.poll() is None
    process.kill()
    process.communicate()
