"""A master's group and a slave in one loop, with fake children: how each reacts to the other."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from fake_children import ENGINE, WORKER, fake_commands

from fixtures.ports import free_port
from gllm.config import Config, EngineConfig, NodesConfig
from gllm.supervisor.group import EngineGroup
from gllm.supervisor.group_interface import EngineReady, GroupEvent, GroupFailed, Note
from gllm.supervisor.nodes.master import Master
from gllm.supervisor.nodes.slave import Slave
from gllm.supervisor.restart import RestartConfig
from gllm.wire.curve import make_keys
from gllm.wire.messages import EngineDown, EngineUp, ProcessStatus
from gllm.wire.node_messages import Heartbeat, ModelDigest

KEYS = make_keys()
MODEL = ModelDigest(config="c", tensors="t", num_tensors=1, num_bytes=1)


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "notes"
    path.touch()
    monkeypatch.setenv("FAKE_NOTES", str(path))
    return path


class Pair:
    """Master and slave of one group; `names` are the names that the slave's resolver knows."""

    def __init__(self, folder: Path, worker: str, engine: str = ENGINE) -> None:
        nodes = NodesConfig(
            launch_mode="master",
            nnodes=2,
            master_addr="127.0.0.1",
            node_addr="127.0.0.1",
            master_port=free_port(),
            join_timeout=20.0,
            heartbeat_interval=0.1,
            heartbeat_timeout=1.0,
        )
        self.config = Config(engine=EngineConfig(model="/models/a", pp=2, page_size=32, threads=3), nodes=nodes)
        self.events: list[GroupEvent] = []
        self.commands = fake_commands(folder, worker=worker, engine=engine)
        self.names: dict[str, str] = {"master": "127.0.0.1"}
        self.master = Master(KEYS, MODEL)
        self.group = EngineGroup(
            self.config,
            restart=RestartConfig(first_delay=0.05, recovery_timeout=20.0),
            commands=self.commands,
            nodes=self.master,
            on_event=self.events.append,
        )
        self.err = io.StringIO()
        self.slaves: list[tuple[Slave, asyncio.Task[int]]] = []

    def slave(self, model: ModelDigest = MODEL, **changes: object) -> tuple[Slave, asyncio.Task[int]]:
        changes = {"launch_mode": "slave", "node_rank": 1, "node_addr": "127.0.0.2", "master_addr": "master", **changes}
        engine = EngineConfig(model="/elsewhere/a", pp=2, threads=1)
        config = Config(engine=engine, nodes=msgspec.structs.replace(self.config.nodes, **changes))
        slave = Slave(config, KEYS, model, commands=self.commands, resolver=self._resolve, err=self.err)
        self.slaves.append((slave, asyncio.create_task(slave.run())))
        return self.slaves[-1]

    def _resolve(self, name: str) -> str:
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.names[name]

    async def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.events, self.err.getvalue())
            await asyncio.sleep(0.02)

    async def until_event(self, event: GroupEvent) -> None:
        await self.until(lambda: event in self.events)

    def reasons(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, EngineDown)]


def play(folder: Path, scenario: Callable[[Pair], Awaitable[None]], worker: str = WORKER, engine: str = ENGINE) -> None:
    async def main() -> None:
        pair = Pair(folder, worker, engine)
        try:
            await scenario(pair)
        finally:
            await pair.group.stop()
            for _, running in pair.slaves:
                running.cancel()
            await asyncio.gather(*(running for _, running in pair.slaves), return_exceptions=True)
            for slave, _ in pair.slaves:
                assert slave.pids == {}

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.timing
def test_a_late_name_then_a_group_then_its_end(tmp_path: Path, notes: Path) -> None:
    async def scenario(pair: Pair) -> None:
        pair.names.clear()
        slave, running = pair.slave()
        await pair.group.start()
        await asyncio.sleep(0.7)
        assert not slave.pids
        assert not pair.group.pids, "nothing starts before all nodes have joined"
        pair.names["master"] = "127.0.0.1"
        await pair.until_event(EngineReady(0))
        assert set(pair.group.pids) == {"engine", "worker-0"}
        await pair.until(lambda: set(slave.pids) == {"worker-1"})
        loading = lambda event: isinstance(event, ProcessStatus) and event.role == "worker-1" and event.progress == 1.0  # noqa: E731
        await pair.until(lambda: any(map(loading, pair.events)))
        await pair.group.stop()
        assert await running == 0

    play(tmp_path, scenario)


def test_the_masters_settings_hold_on_all_nodes_except_local_ones(tmp_path: Path, notes: Path) -> None:
    worker = "e = config.engine\nnote(f\"{os.environ['RANK']} {e.model} {e.page_size} {e.threads}\")\ntime.sleep(600)"

    async def scenario(pair: Pair) -> None:
        pair.slave()
        await pair.group.start()
        await pair.until(lambda: notes.read_text().count(" 32 ") == 2)
        assert {line for line in notes.read_text().splitlines() if " 32 " in line} == {
            "0 /models/a 32 3",
            "1 /elsewhere/a 32 1",
        }

    play(tmp_path, scenario, worker)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_slaves_worker_dies(tmp_path: Path, number: signal.Signals) -> None:
    async def scenario(pair: Pair) -> None:
        slave, _ = pair.slave()
        await pair.group.start()
        await pair.until_event(EngineReady(0))
        await pair.until(lambda: "worker-1" in slave.pids)
        before = {**slave.pids, **pair.group.pids}
        os.kill(slave.pids["worker-1"], number)
        await pair.until_event(EngineReady(1))
        await pair.until(lambda: "worker-1" in slave.pids)
        assert not set(before.values()) & {*slave.pids.values(), *pair.group.pids.values()}
        assert pair.reasons()[0].startswith("worker-1 was ")
        assert pair.reasons()[0].endswith(" on node 1 (127.0.0.2)")

    play(tmp_path, scenario)


@pytest.mark.timing
def test_a_silent_slave_is_removed_and_joins_again(tmp_path: Path) -> None:
    """Its heartbeats stop while its link is open, as when its supervisor is stopped; later they continue."""

    async def scenario(pair: Pair) -> None:
        slave, _ = pair.slave()
        await pair.group.start()
        await pair.until_event(EngineReady(0))
        await pair.until(lambda: slave._link is not None and "worker-1" in slave.pids)
        link = slave._link
        assert link is not None
        send, link.send = link.send, lambda message: None  # type: ignore[method-assign]
        await pair.until(lambda: any("was silent for" in reason for reason in pair.reasons()))
        link.send = send  # type: ignore[method-assign]
        await pair.until(lambda: "joining again" in pair.err.getvalue())
        await pair.until_event(EngineReady(1))

    play(tmp_path, scenario)


def test_messages_of_a_removed_slave_change_nothing(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        pair.slave()
        await pair.group.start()
        await pair.until_event(EngineReady(0))
        sent: list[object] = []
        pair.master._send = lambda identity, message: sent.append(message) or True  # type: ignore[method-assign]
        pair.master._handle(b"node-1-of-an-earlier-link", Heartbeat())
        assert "must join again" in str(sent)
        assert not pair.reasons()

    play(tmp_path, scenario)


def test_a_second_node_of_the_same_rank_waits_and_joins_when_the_first_is_lost(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        first, running = pair.slave()
        await pair.group.start()
        await pair.until_event(EngineReady(0))
        second, _ = pair.slave(node_addr="127.0.0.3")
        await pair.until(lambda: any("there is a node 1 already" in str(event) for event in pair.events))
        assert not pair.reasons()
        running.cancel()
        await pair.until_event(EngineReady(1))
        await pair.until(lambda: "worker-1" in second.pids)
        assert Note("node 1 (127.0.0.3) joined (2 of 2)") in pair.events
        assert not first.pids

    play(tmp_path, scenario)


def test_a_refused_node_ends_and_the_group_still_waits(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        _, wrong = pair.slave(ModelDigest(config="other", tensors="t", num_tensors=1, num_bytes=1))
        await pair.group.start()
        assert await wrong == 1
        assert "gllm: error: the master at 127.0.0.1:" in pair.err.getvalue()
        assert any(isinstance(event, Note) and "refused node 1" in event.text for event in pair.events)
        pair.slave()
        await pair.until_event(EngineReady(0))
        assert pair.events.count(EngineUp(0)) == 1

    play(tmp_path, scenario)


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", pair.config.nodes.master_port))
            taken.listen()
            await pair.group.start()
            await pair.until(lambda: bool(pair.events))
        (event,) = pair.events
        assert isinstance(event, GroupFailed)
        assert "choose a free --master-port" in event.reason

    play(tmp_path, scenario)
