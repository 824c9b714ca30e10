"""Several nodes: a master and slaves as real processes, each on its own loopback address."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import LIGHT, Process, Server, Stream, end_all, gone, until

from fixtures.ports import free_port
from fixtures.tiny_models import write_hf
from gllm.wire.curve import make_keys
from gllm.wire.node_messages import PROTOCOL

LONG = 3000
"""Tokens that take longer than it takes to notice a silent node."""
QUICK = ["--heartbeat-timeout", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf("llama", tmp_path_factory.mktemp("nodes"), max_position_embeddings=8192, num_hidden_layers=4)


class Nodes:
    """Starts the nodes of a group: the master on 127.0.0.1, slave n on 127.0.0.(n+1)."""

    def __init__(self, model: Path, folder: Path, pp: int = 2, nnodes: int = 2) -> None:
        self.model = model
        self.folder = folder
        self.shape = ["--pp", str(pp), "--nnodes", str(nnodes), "--join-timeout", "60"]
        self.master_port = free_port(3)
        self.keys = folder / "keys"
        self.keys.write_text(make_keys().text())
        self.started: list[Process] = []

    @property
    def common(self) -> list[str]:
        return [*self.shape, "--master-port", str(self.master_port), "--keys-file", str(self.keys), *QUICK]

    def master(self, *flags: str) -> Server:
        server = Server(
            self.model,
            self.folder / "master",
            *self.common,
            "--launch-mode",
            "master",
            "--node-addr",
            "127.0.0.1",
            *flags,
        )
        self.started.append(server)
        return server

    def slave(
        self, rank: int = 1, *flags: str, model: Path | None = None, env: dict[str, str] | None = None
    ) -> Process:
        process = Process(
            self.folder / f"slave-{rank}",
            str(model or self.model),
            *LIGHT,
            *self.common,
            "--launch-mode",
            "slave",
            "--node-rank",
            str(rank),
            "--master-addr",
            "127.0.0.1",
            "--node-addr",
            f"127.0.0.{rank + 1}",
            *flags,
            env=env,
        )
        self.started.append(process)
        return process


@pytest.fixture
def nodes(model: Path, tmp_path: Path) -> Iterator[Nodes]:
    group = Nodes(model, tmp_path)
    yield group
    end_all(group.started)


@pytest.fixture(scope="module")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Greedy texts of one process, by prompt."""
    server = Server(model, tmp_path_factory.mktemp("alone") / "err")
    server.wait_ready()
    texts = {number: server.text(prompt=f"fox {number}", max_tokens=LONG) for number in range(6)}
    end_all([server])
    return texts


def test_any_order_then_loss_and_return_of_a_slave(nodes: Nodes, expected: dict[int, str]) -> None:
    """kill -9 of each node's worker and of the slave's supervisor, SIGSTOP of the same: streams pause and continue."""
    slave = nodes.slave()
    slave_again = slave
    master = nodes.master()
    master.wait_ready()
    assert set(master.children()) == {"gateway", "engine", "worker-0"}
    assert set(slave.children()) == {"worker-1"}
    assert "node 1 (127.0.0.2) joined (2 of 2)" in master.err()

    epochs = itertools.count(1)

    def undisturbed_by(event: str) -> None:
        streams = [Stream(master, prompt=f"fox {number}", max_tokens=LONG) for number in expected]
        for stream in streams:
            stream.wait_pieces(20)
        match event:
            case "worker dies":
                slave.kill("worker-1")
            case "worker stops":
                slave.kill("worker-1", signal.SIGSTOP)
            case "slave dies":
                pids = slave.children().values()
                slave.kill("supervisor")
                nonlocal slave_again
                slave_again = nodes.slave()
                until(lambda: all(map(gone, pids)), 10)
            case "neighbour dies":
                # The slave's worker notices it by the broken connection.
                for process in (slave_again, master):
                    process.kill("supervisor", signal.SIGSTOP)
                master.kill("worker-0")
                slave_again.wait_for_err("an exchange with another worker failed", 10)
                for process in (slave_again, master):
                    process.kill("supervisor", signal.SIGCONT)
            case "slave stops":
                slave_again.kill("supervisor", signal.SIGSTOP)
                master.wait_for_err("it was silent for")
                slave_again.kill("supervisor", signal.SIGCONT)
        master.wait_for_err(f"(epoch {next(epochs)})", 20)
        assert all(stream.live for stream in streams), "the loss must affect them"
        for number, stream in enumerate(streams):
            assert stream.result() == expected[number]
            assert stream.usage["completion_tokens"] == LONG

    for event in ("worker dies", "worker stops", "slave dies", "neighbour dies", "slave stops"):
        undisturbed_by(event)
    assert "worker-1 was killed by SIGKILL (out of memory?) on node 1 (127.0.0.2)" in master.err()
    assert "worker-1 was stopped by a signal, and killed on node 1" in master.err()
    assert "worker-0 was killed by SIGKILL (out of memory?)" in master.err()
    assert "node 1 (127.0.0.2) was lost: " in master.err()
    slave_again.wait_for_err("joining again", 10)
    master.process.send_signal(signal.SIGTERM)
    assert master.finish() == 0
    assert slave_again.finish() == 0
    assert "Traceback" not in master.err() + slave_again.err()


def test_the_master_returns_and_the_slave_joins_it(nodes: Nodes) -> None:
    master = nodes.master()
    slave = nodes.slave()
    master.wait_ready()
    text = master.text()
    workers = list(slave.children().values())
    master.kill("supervisor")
    slave.wait_for_err("the link to the master closed; joining again")
    until(lambda: all(map(gone, workers)), 10)
    master = nodes.master()
    master.wait_ready()
    assert master.text() == text
    slave.process.send_signal(signal.SIGTERM)
    slave.wait_for_err("running until the master ends")
    assert master.text() == text
    assert "was asked to end" in master.err()
    master.process.send_signal(signal.SIGINT)
    assert (master.finish(), slave.finish()) == (0, 0)


def test_different_settings_are_refused_on_both_sides(nodes: Nodes, tmp_path: Path) -> None:
    master = nodes.master()
    other = write_hf("llama", tmp_path / "other", max_position_embeddings=8192, num_hidden_layers=4, hidden_size=32)
    alike = write_hf("llama", tmp_path / "alike", max_position_embeddings=8192, num_hidden_layers=4)
    (alike / "model.safetensors").write_bytes(_without_last_tensor((alike / "model.safetensors").read_bytes()))
    version = tmp_path / "sitecustomize"
    version.mkdir()
    (version / "sitecustomize.py").write_text("import gllm\ngllm.__version__ = '9.9.9'\n")
    cases = [
        (nodes.slave(1, model=other), "the model differs: its configuration is another one"),
        (nodes.slave(2, "--node-rank", "1", model=alike), "the model differs: "),
        (
            nodes.slave(3, "--node-rank", "1", "--pp", "4"),
            "the parallel sizes differ: --pp is 4 here and 2 on the master",
        ),
        (
            nodes.slave(4, "--node-rank", "1", env={"PYTHONPATH": str(version)}),
            f"the version differs: gLLM 9.9.9 (protocol {PROTOCOL}) here",
        ),
    ]
    for slave, reason in cases:
        assert slave.finish() == 1, slave.err()
        (line,) = [line for line in slave.err().splitlines() if line.startswith("gllm: error")]
        assert f"refused this node: {reason}" in line
        master.wait_for_err(f": {reason}")


def _without_last_tensor(data: bytes) -> bytes:
    """A safetensors file whose list of tensors is one shorter."""
    import json
    import struct

    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header.pop(sorted(name for name in header if name != "__metadata__")[-1])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def test_keys_are_needed_and_must_be_the_groups(nodes: Nodes, tmp_path: Path) -> None:
    nodes.master()
    keyless = nodes.slave(1, "--keys-file", "", env={"GLLM_KEYS": ""})
    assert keyless.finish() == 1
    assert "several machines need keys: `gllm keys --output FILE` makes them" in keyless.err()
    strange = tmp_path / "strange"
    strange.write_text(make_keys().text())
    stranger = nodes.slave(2, "--node-rank", "1", "--keys-file", str(strange))
    assert stranger.finish() == 1
    assert "has other keys: give every node the same --keys-file" in stranger.err()
    server_secret, client_secret = nodes.keys.read_text().split(".")
    half = tmp_path / "half"
    half.write_text(f"{server_secret}.{make_keys().text().split('.')[1]}")
    unknown = nodes.slave(3, "--node-rank", "1", "--keys-file", str(half))
    assert unknown.finish() == 1
    assert "does not know this node's keys: give every node the same --keys-file" in unknown.err()
    assert client_secret not in unknown.err()


def test_nodes_that_do_not_join_are_named(nodes: Nodes) -> None:
    master = nodes.master("--join-timeout", "2")
    slave = nodes.slave(1, "--join-timeout", "2", "--master-port", str(free_port()))
    assert master.finish() == 1
    assert "gllm: error: node 1 did not join within 2 s (--join-timeout)" in master.err()
    assert slave.finish() == 1
    assert "gave up after --join-timeout 2 s" in slave.err()
    unknown = nodes.slave(2, "--node-rank", "1", "--join-timeout", "1", "--master-addr", "no-such-host.invalid")
    assert unknown.finish() == 1
    assert "--master-addr no-such-host.invalid has no address" in unknown.err()


def test_a_slave_that_does_not_return_fails_the_requests_in_time(nodes: Nodes) -> None:
    master = nodes.master("--recovery-timeout", "3")
    slave = nodes.slave()
    master.wait_ready()
    stream = Stream(master, max_tokens=6000)
    stream.wait_pieces(10)
    slave.kill("supervisor")
    until(lambda: not master.ready(), 5)
    assert master.healthy()
    stream.join(30)
    assert "could not serve again within 3 s (--recovery-timeout)" in stream.error
    assert "node 1 (127.0.0.2) was lost" in stream.error
    assert master.finish() == 1
    assert master.err().splitlines()[-1].startswith("gllm: error: could not serve again within 3 s")


def test_by_environment(nodes: Nodes) -> None:
    """As the operator starts pods: both commands are the same."""
    world = {
        "NNODES": "2",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(nodes.master_port),
        "GLLM_KEYS": nodes.keys.read_text(),
        "GLLM_PP": "2",
    }
    master = Server(
        nodes.model,
        nodes.folder / "m",
        env=world | {"GLLM_LAUNCH_MODE": "master", "NODE_RANK": "0", "GLLM_NODE_ADDR": "127.0.0.1"},
    )
    nodes.started.append(master)
    slave = Process(
        nodes.folder / "s",
        str(nodes.model),
        *LIGHT,
        env=world | {"GLLM_LAUNCH_MODE": "slave", "NODE_RANK": "1", "GLLM_NODE_ADDR": "127.0.0.2"},
    )
    nodes.started.append(slave)
    master.wait_ready()
    assert len(master.text()) > 0
    for pid in (*master.children().values(), *slave.children().values()):
        environment = Path(f"/proc/{pid}/environ").read_text()
        if "gllm.gateway" in Path(f"/proc/{pid}/cmdline").read_text():
            assert "GLLM_KEYS=\0" in environment, "the process that faces the network has no keys"
        elif "gllm.worker" in Path(f"/proc/{pid}/cmdline").read_text():
            assert "GLOO_SOCKET_IFNAME=lo\0" in environment


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nnodes", "2"], "--nnodes 2 needs --launch-mode master on the first node"),
        (["--launch-mode", "master"], "--launch-mode master is for several nodes: say how many with --nnodes"),
        (["--launch-mode", "master", "--nnodes", "2"], "--pp 1 is not a multiple of --nnodes 2"),
        (
            ["--launch-mode", "slave", "--nnodes", "2", "--pp", "2"],
            "--node-rank 0 with --launch-mode slave: give 1 to 1",
        ),
        (["--launch-mode", "slave", "--nnodes", "2", "--pp", "2", "--node-rank", "1"], "--master-addr"),
        (["--pp", "9"], "--pp 9 is more than the model's 4 layers"),
        (["--tp", "3"], "--tp 3 does not divide the model's 4 attention heads"),
        (["--pp", "2", "--assigned-layers", "1,1"], "add up to the model's 4, not 2"),
    ],
)
def test_shapes_that_do_not_fit_name_the_flags(model: Path, flags: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gllm.apps.cli.main", "serve", str(model), *flags],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "300"},
    )
    assert done.returncode == 2
    assert message in done.stderr
