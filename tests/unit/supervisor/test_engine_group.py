"""EngineGroup with fake children: start, failure, restart, and no leaked process or folder."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from fake_children import ENGINE, fake_commands

from gllm.config import Config, EngineConfig
from gllm.supervisor.child_process import Commands
from gllm.supervisor.group import EngineGroup
from gllm.supervisor.group_interface import EngineReady, GroupError, GroupEvent, GroupFailed, Restarting
from gllm.supervisor.restart import RestartConfig
from gllm.wire.messages import EngineDown, EngineUp, ProcessStatus

CONFIG = Config(engine=EngineConfig(model="fake"))
FAST = RestartConfig(first_delay=0.05, longest_delay=0.1)
NEVER = RestartConfig(enabled=False)


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "notes"
    path.touch()
    monkeypatch.setenv("FAKE_NOTES", str(path))
    return path


class Observer:
    """Collects a group's events and waits for them."""

    def __init__(self, commands: Commands, restart: RestartConfig, config: Config) -> None:
        self.events: list[GroupEvent] = []
        self._news = asyncio.Event()
        self.group = EngineGroup(config, restart=restart, commands=commands, on_event=self._on_event)

    def _on_event(self, event: GroupEvent) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, event: GroupEvent) -> None:
        while event not in self.events:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 20)

    async def until_type(self, kind: type) -> None:
        while not any(isinstance(event, kind) for event in self.events):
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 20)

    def without_statuses(self) -> list[GroupEvent]:
        return [event for event in self.events if not isinstance(event, ProcessStatus)]


def observe(
    commands: Commands,
    restart: RestartConfig,
    scenario: Callable[[Observer], Awaitable[None]],
    config: Config = CONFIG,
) -> Observer:
    """Start a group, run the scenario, stop the group. Checks that no process and no run_dir is left."""
    seen: dict[str, int] = {}

    async def main() -> Observer:
        observer = Observer(commands, restart, config)
        await observer.group.start()
        run_dir = Path(observer.group.config.run_dir)
        assert run_dir.stat().st_mode & 0o777 == 0o700
        try:
            await scenario(observer)
            seen.update(observer.group.pids)
        finally:
            await observer.group.stop()
            await observer.group.stop()
        assert not run_dir.exists()
        assert observer.group.pids == {}
        return observer

    observer = asyncio.run(asyncio.wait_for(main(), 60))
    for pid in seen.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    return observer


def test_starts_reports_progress_and_stops(tmp_path: Path, notes: Path) -> None:
    async def scenario(observer: Observer) -> None:
        await observer.group.wait_ready()
        assert set(observer.group.pids) == {"engine", "worker-0"}
        assert observer.group.running
        while len([e for e in observer.events if isinstance(e, ProcessStatus) and e.state == "loading"]) < 5:
            await asyncio.sleep(0.02)

    observer = observe(fake_commands(tmp_path), NEVER, scenario)
    assert observer.without_statuses() == [EngineUp(0), EngineReady(0)]
    progress = [
        event.progress for event in observer.events if isinstance(event, ProcessStatus) and event.state == "loading"
    ]
    assert progress == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert sorted(notes.read_text().split("\n")[:-1]) == ["engine 0 start", "worker-0 0 start"]


@pytest.mark.parametrize("role", ["engine", "worker-0"])
def test_one_exit_ends_all_and_starts_a_new_epoch(tmp_path: Path, role: str) -> None:
    async def scenario(observer: Observer) -> None:
        await observer.group.wait_ready()
        before = observer.group.pids
        os.kill(before[role], signal.SIGKILL)
        await observer.until(EngineReady(1))
        assert not set(before.values()) & set(observer.group.pids.values())
        assert observer.group.config.epoch == 1

    observer = observe(fake_commands(tmp_path), FAST, scenario)
    reason = f"{role} was killed by SIGKILL (out of memory?)"
    down = next(event for event in observer.events if isinstance(event, EngineDown))
    assert 100 < down.recovery_seconds <= FAST.recovery_timeout
    assert observer.without_statuses() == [
        EngineUp(0),
        EngineReady(0),
        EngineDown(0, reason, down.recovery_seconds),
        Restarting(1, 0.05, reason),
        EngineUp(1),
        EngineReady(1),
    ]


def test_without_restart_an_exit_ends_the_group(tmp_path: Path) -> None:
    async def scenario(observer: Observer) -> None:
        await observer.group.wait_ready()
        os.kill(observer.group.pids["worker-0"], signal.SIGTERM)
        await observer.until_type(GroupFailed)
        assert observer.group.pids == {}
        with pytest.raises(GroupError, match="worker-0 was killed by SIGTERM"):
            await observer.group.wait_ready()

    observe(fake_commands(tmp_path), NEVER, scenario)


def test_an_explained_failure_of_the_first_start_is_final(tmp_path: Path, notes: Path) -> None:
    worker = 'StatusReporter(config, "worker-0").report("failed", "the model needs 9 GB, 2 GB are free")\nsys.exit(1)'
    engine = 'note("start")\ntime.sleep(600)'

    async def scenario(observer: Observer) -> None:
        with pytest.raises(GroupError, match=r"^the model needs 9 GB, 2 GB are free$"):
            await observer.group.wait_ready()

    observer = observe(fake_commands(tmp_path, worker=worker, engine=engine), FAST, scenario)
    assert observer.events[-1] == GroupFailed("the model needs 9 GB, 2 GB are free")
    assert notes.read_text().count("start") <= 1


def test_unexplained_failures_of_starts_are_repeated_a_few_times(tmp_path: Path) -> None:
    async def scenario(observer: Observer) -> None:
        with pytest.raises(GroupError, match="gave up after 3 failed starts: engine exited with status 7"):
            await observer.group.wait_ready()

    observer = observe(fake_commands(tmp_path, engine="sys.exit(7)"), FAST, scenario)
    assert [event.delay for event in observer.events if isinstance(event, Restarting)] == [0.05, 0.1]


def test_a_group_that_served_is_restarted_even_if_the_failure_is_explained(tmp_path: Path) -> None:
    engine = """
    status = StatusReporter(config, "engine")
    status.report("ready")
    if config.epoch == 0:
        time.sleep(0.2)
        status.report("failed", "CUDA out of memory")
    time.sleep(600)
    """

    async def scenario(observer: Observer) -> None:
        await observer.until(EngineReady(1))

    observer = observe(fake_commands(tmp_path, engine=engine), FAST, scenario)
    assert "CUDA out of memory" in [event.reason for event in observer.events if isinstance(event, EngineDown)]


def test_a_group_that_cannot_serve_again_in_time_fails(tmp_path: Path) -> None:
    engine = ENGINE.replace('status.report("ready")', 'status.report("ready" if config.epoch == 0 else "loading")')

    async def scenario(observer: Observer) -> None:
        await observer.group.wait_ready()
        os.kill(observer.group.pids["worker-0"], signal.SIGKILL)
        await observer.until_type(GroupFailed)

    policy = RestartConfig(first_delay=0.05, recovery_timeout=1.0)
    observer = observe(fake_commands(tmp_path, engine=engine), policy, scenario)
    failure = "could not serve again within 1 s (--recovery-timeout): worker-0 was killed by SIGKILL (out of memory?)"
    assert observer.events[-1] == GroupFailed(failure)
    assert observer.events[-2] == EngineDown(1, failure)


def test_starts_that_fail_in_a_recovery_are_repeated_until_its_deadline(tmp_path: Path) -> None:
    engine = ENGINE.replace('status.report("starting")', "if 0 < config.epoch < 5: sys.exit(3)")

    async def scenario(observer: Observer) -> None:
        await observer.group.wait_ready()
        os.kill(observer.group.pids["engine"], signal.SIGKILL)
        await observer.until(EngineReady(5))

    observer = observe(fake_commands(tmp_path, engine=engine), FAST, scenario)
    left = [event.recovery_seconds for event in observer.events if isinstance(event, EngineDown)]
    assert len(left) == 5
    assert left == sorted(left, reverse=True), "the deadline does not move"


@pytest.mark.parametrize("role", ["engine", "worker-0"])
def test_a_stopped_process_counts_as_dead(tmp_path: Path, role: str) -> None:
    async def scenario(observer: Observer) -> None:
        await observer.group.wait_ready()
        os.kill(observer.group.pids[role], signal.SIGSTOP)
        await observer.until(EngineReady(1))

    observer = observe(fake_commands(tmp_path), FAST, scenario)
    reasons = [event.reason for event in observer.events if isinstance(event, EngineDown)]
    assert reasons == [f"{role} was stopped by a signal, and killed"]


def test_ranks_of_one_node_have_their_environment(tmp_path: Path, notes: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    worker = f"""
    note(" ".join(os.environ.get(name, "-") for name in {names}) + f" threads={{config.engine.threads}}")
    time.sleep(600)
    """

    async def scenario(observer: Observer) -> None:
        await observer.group.wait_ready()
        assert set(observer.group.pids) == {"engine", "worker-0", "worker-1", "worker-2", "worker-3"}
        while notes.read_text().count("threads") < 4:
            await asyncio.sleep(0.02)

    config = Config(engine=EngineConfig(model="fake", pp=2, tp=2))
    observe(fake_commands(tmp_path, worker=worker), NEVER, scenario, config)
    lines = sorted(line.split() for line in notes.read_text().splitlines() if "threads" in line)
    assert [line[:5] for line in lines] == [[str(rank), str(rank), "4", "4", "127.0.0.1"] for rank in range(4)]
    assert len({line[5] for line in lines}) == 1
    assert {line[6] for line in lines} == {f"threads={max(1, len(os.sched_getaffinity(0)) // 4)}"}


def test_a_process_that_ignores_sigterm_is_killed_with_its_own_children(tmp_path: Path, notes: Path) -> None:
    stubborn = """
    import subprocess
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note(str(grandchild.pid))
    status = StatusReporter(config, "engine")
    status.report("ready")
    time.sleep(600)
    """

    async def scenario(observer: Observer) -> None:
        await observer.group.wait_ready()
        await observer.group.stop(timeout=0.2)

    observe(fake_commands(tmp_path, engine=stubborn, worker="time.sleep(600)"), NEVER, scenario)
    # The signal is delivered before the process has exited.
    deadline = time.monotonic() + 5
    while _alive(int(notes.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("missing", [True, False])
def test_a_command_that_cannot_be_run_is_named(tmp_path: Path, missing: bool) -> None:
    engine = tmp_path / "engine"
    if not missing:
        engine.touch(mode=0o644)
    commands = Commands(engine=(str(engine),), worker=("/no/such/worker",))

    async def scenario(observer: Observer) -> None:
        with pytest.raises(GroupError, match=f"^cannot start a process: .*{engine}"):
            await observer.group.wait_ready()

    for policy in (NEVER, FAST):  # The same command would fail the same way.
        observer = observe(commands, policy, scenario)
        assert not any(isinstance(event, Restarting) for event in observer.events)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_first_cause_is_reported_and_not_its_effects(tmp_path: Path) -> None:
    """A worker is killed; the engine reports its broken connection first."""
    engine = ENGINE.replace(
        "time.sleep(600)",
        'while not os.path.exists(os.environ["FAKE_NOTES"] + ".kill"): time.sleep(0.01)\n'
        'status.report("failed", "connection reset by peer")\nsys.exit(1)',
    )

    async def scenario(observer: Observer) -> None:
        await observer.group.wait_ready()
        Path(os.environ["FAKE_NOTES"] + ".kill").touch()
        await observer.until_type(ProcessStatus)
        while not any(isinstance(event, ProcessStatus) and event.state == "failed" for event in observer.events):
            await asyncio.sleep(0.001)
        os.kill(observer.group.pids["worker-0"], signal.SIGKILL)
        await observer.until_type(EngineDown)

    observer = observe(fake_commands(tmp_path, engine=engine), FAST, scenario)
    down = next(event for event in observer.events if isinstance(event, EngineDown))
    assert down.reason == "worker-0 was killed by SIGKILL (out of memory?)"
