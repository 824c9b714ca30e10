"""The process of `gllm serve` with fake children: its output, its exit status, and no leaked process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_children import GATEWAY, fake_commands

_MAIN = """
import asyncio, sys
from gllm.config import Config, EngineConfig, GatewayConfig
from gllm.supervisor.restart import RestartConfig
from gllm.supervisor.child_process import Commands
from gllm.supervisor.supervisor import Supervisor
folder, restart = sys.argv[1], sys.argv[2] == "restart"
commands = Commands(**{role: (sys.executable, f"{folder}/fake_{role}.py") for role in ("engine", "worker", "gateway")})
config = Config(engine=EngineConfig(model="/models/Tiny"), gateway=GatewayConfig(port=1234, drain_timeout=10))
policy = RestartConfig(enabled=restart, first_delay=0.05)
sys.exit(asyncio.run(Supervisor(config, restart=policy, commands=commands).run()))
"""


class Served:
    """A server process under test."""

    def __init__(self, folder: Path, run_base: Path, on_failure: str, scripts: dict[str, str]) -> None:
        fake_commands(folder, **scripts)
        self.notes_path = folder / "notes"
        self.notes_path.touch()
        self.err_path = folder / "err"
        environment = {**os.environ, "FAKE_NOTES": str(self.notes_path), "XDG_RUNTIME_DIR": str(run_base)}
        with self.err_path.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, str(folder), on_failure],
                stdout=subprocess.PIPE,
                stderr=err,
                env=environment,
                text=True,
            )

    def ready_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def children(self) -> dict[str, int]:
        """Fake role to pid, from the kernel."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = {}
        for pid in path.read_text().split():
            name = re.search(r"fake_(\w+)\.py", Path(f"/proc/{pid}/cmdline").read_text())
            if name is not None:
                found[name[1]] = int(pid)
        return found

    def wait_for_note(self, text: str, count: int = 1) -> None:
        self._wait_for(self.notes_path, text, count)

    def wait_for_err(self, text: str) -> None:
        self._wait_for(self.err_path, text, 1)

    def _wait_for(self, path: Path, text: str, count: int) -> None:
        for _ in range(1000):
            if path.read_text().count(text) >= count:
                return
            time.sleep(0.02)
        raise AssertionError(f"no {text!r} in:\n{path.read_text()}")

    def finish(self) -> tuple[int, str, str]:
        """(exit status, rest of stdout, stderr)"""
        out, _ = self.process.communicate(timeout=20)
        return self.process.returncode, out, self.err_path.read_text()


class Starter:
    def __init__(self, folder: Path, run_base: Path) -> None:
        self._folder = folder
        self._run_base = run_base
        self.served: Served | None = None

    def __call__(self, on_failure: str = "restart", **scripts: str) -> Served:
        self.served = Served(self._folder, self._run_base, on_failure, scripts)
        return self.served


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts servers; then checks that no child is left, and no run_dir unless the server itself was killed."""
    # Not in tmp_path: a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="run-", dir="/tmp") as run_base:
        starter = Starter(tmp_path, Path(run_base))
        yield starter
        assert starter.served is not None
        process = starter.served.process
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL or not any(Path(run_base).iterdir())
    deadline = time.monotonic() + 10
    while (left := _processes_of(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def _processes_of(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_text()
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


def test_one_ready_line_then_a_quiet_ctrl_c(start: Starter) -> None:
    server = start()
    line = server.ready_line()
    assert line.startswith("gLLM serves Tiny at http://127.0.0.1:1234 - try: curl http://127.0.0.1:1234/v1/chat/compl")
    assert '"model": "Tiny"' in line
    server.wait_for_err("worker-0: weights 100%")
    server.process.send_signal(signal.SIGINT)
    status, out, err = server.finish()
    assert status == 0
    assert out == ""
    assert err.splitlines() == [
        "worker-0: weights",
        "worker-0: weights 25%",
        "worker-0: weights 50%",
        "worker-0: weights 75%",
        "worker-0: weights 100%",
    ]
    assert "gateway drained" in server.notes_path.read_text()


@pytest.mark.parametrize("victim", ["engine", "worker"])
def test_a_killed_process_is_reported_and_replaced(start: Starter, victim: str) -> None:
    server = start()
    server.ready_line()
    gateway = server.children()["gateway"]
    os.kill(server.children()[victim], signal.SIGKILL)
    server.wait_for_note("gateway got EngineDown(epoch=0, reason='" + victim)
    server.wait_for_err("gllm: serving again (epoch 1)")
    assert server.children()["gateway"] == gateway
    server.process.send_signal(signal.SIGTERM)
    status, out, err = server.finish()
    assert (status, out) == (0, "")
    assert "was killed by SIGKILL (out of memory?); restarting in 0.05 s (epoch 1)" in err


def test_the_gateway_gets_the_progress_of_loading(start: Starter) -> None:
    """Also the progress before it connected."""
    late = GATEWAY.replace('await link.report("starting")', 'await asyncio.sleep(1); await link.report("starting")')
    served = start(gateway=late)
    served.wait_for_note("gateway got Loading(progress=1.0)")


def test_a_killed_gateway_is_replaced_with_the_engine(start: Starter) -> None:
    server = start()
    server.ready_line()
    os.kill(server.children()["gateway"], signal.SIGKILL)
    server.wait_for_note("gateway got EngineUp(epoch=1)")
    server.wait_for_err("gllm: serving again (epoch 1)")
    server.process.send_signal(signal.SIGTERM)
    assert server.finish()[0] == 0


@pytest.mark.parametrize("victim", ["engine", "worker", "gateway"])
def test_on_failure_exit(start: Starter, victim: str) -> None:
    server = start("exit")
    server.ready_line()
    os.kill(server.children()[victim], signal.SIGKILL)
    status, out, err = server.finish()
    assert (status, out) == (1, "")
    (line,) = [line for line in err.splitlines() if line.startswith("gllm")]
    assert re.fullmatch(rf"gllm: error: {victim}(-0)? was killed by SIGKILL \(out of memory\?\)", line)


def test_a_failed_start_is_one_line(start: Starter) -> None:
    engine = 'StatusReporter(config, "engine").report("failed", "architecture FooForCausalLM is not supported")'
    server = start(engine=engine, worker="time.sleep(600)", gateway="time.sleep(600)")
    assert server.finish() == (1, "", "gllm: error: architecture FooForCausalLM is not supported\n")


def test_a_gateway_that_cannot_listen_is_one_line(start: Starter) -> None:
    gateway = 'StatusReporter(config, "gateway").report("failed", "cannot listen on 127.0.0.1:80")\nsys.exit(1)'
    server = start(gateway=gateway, worker="time.sleep(600)")
    assert server.finish() == (1, "", "gllm: error: cannot listen on 127.0.0.1:80\n")


def test_sigterm_drains_with_the_engine_alive(start: Starter) -> None:
    server = start()
    server.ready_line()
    engine = server.children()["engine"]
    server.process.send_signal(signal.SIGTERM)
    server.wait_for_note("got Drain")
    os.kill(engine, 0)
    status, out, err = server.finish()
    assert (status, out) == (0, "")
    notes = server.notes_path.read_text()
    assert notes.index("gateway got Drain(timeout=10.0)") < notes.index("gateway drained")
    assert "gllm: finishing running requests, 10 s at most" in err


def test_a_second_ctrl_c_kills(start: Starter) -> None:
    gateway = GATEWAY.replace("await asyncio.sleep(0.2)", "await asyncio.sleep(600)")
    server = start(gateway=gateway)
    server.ready_line()
    server.process.send_signal(signal.SIGTERM)
    server.wait_for_note("got Drain")
    server.process.send_signal(signal.SIGINT)
    assert server.finish()[0] == 130


def test_ctrl_c_while_starting_is_quiet(start: Starter) -> None:
    waiting = 'note("start")\ntime.sleep(600)'
    server = start(engine=waiting, worker=waiting, gateway=waiting)
    server.wait_for_note("start", 3)
    server.process.send_signal(signal.SIGINT)
    assert server.finish() == (0, "", "")


def test_children_die_with_a_killed_supervisor(start: Starter) -> None:
    server = start()
    server.ready_line()
    server.process.kill()
    server.process.wait()
