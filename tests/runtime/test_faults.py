"""`gllm serve` with real processes: what clients see when one is killed, how it comes back, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from fixtures.tiny_models import write_hf

ENDLESS = 30_000
"""Tokens that take longer than any test."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf("llama", tmp_path_factory.mktemp("faults"), max_position_embeddings=32768)


class Serving:
    """A running `gllm serve`."""

    def __init__(self, model: Path, folder: Path, *flags: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.err_path = folder / "err"
        command = [sys.executable, "-m", "gllm.cli.main", "serve", str(model), "--port", str(self.port)]
        command += ["--device", "cpu", "--threads", "1", "--kv-cache-memory", "64M", "--served-model-name", "tiny"]
        with self.err_path.open("wb") as err:
            self.process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=err, text=True)
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def children(self) -> dict[str, int]:
        """Role (gateway, engine, worker) to pid, from the kernel."""
        found = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            module = re.search(r"gllm\.(gateway|engine|worker)\0", Path(f"/proc/{pid}/cmdline").read_text())
            if module is not None:
                found[module[1]] = int(pid)
        return found

    def complete(self, max_tokens: int) -> dict[str, Any]:
        body = {"model": "tiny", "prompt": "the quick", "max_tokens": max_tokens, "ignore_eos": True}
        response = self.http.post("/v1/completions", json=body)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def healthy(self) -> bool:
        return self.http.get("/health").status_code == 200

    def ready(self) -> bool:
        return self.http.get("/ready").status_code == 200

    def finish(self) -> tuple[int, str]:
        """(exit status, stderr)"""
        assert self.process.wait(timeout=30) is not None
        return self.process.returncode, self.err_path.read_text()


class Stream(threading.Thread):
    """A client that reads a stream to its end, whatever the end is."""

    def __init__(self, serving: Serving, max_tokens: int) -> None:
        super().__init__(daemon=True)
        self.events: list[str] = []
        self.started = threading.Event()
        self.failure: Exception | None = None
        self._url = f"http://127.0.0.1:{serving.port}/v1/completions"
        self._body = {"prompt": "hello", "max_tokens": max_tokens, "ignore_eos": True, "stream": True, "model": "tiny"}
        self.start()
        assert self.started.wait(30)

    def run(self) -> None:
        try:
            with httpx.stream("POST", self._url, json=self._body, timeout=60) as response:
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        self.events.append(line.removeprefix("data: "))
                        self.started.set()
        except httpx.HTTPError as error:
            self.failure = error
            self.started.set()

    def error(self) -> str:
        """Message of the error event that ended the stream."""
        self.join(10)
        assert not self.is_alive(), "the client hangs"
        assert self.failure is None
        for event in self.events[::-1]:
            if event != "[DONE]":
                return str(json.loads(event)["error"]["message"])
        raise AssertionError("the stream had no event")


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


Serve = Callable[..., Serving]


@pytest.fixture
def serve(model: Path, tmp_path: Path) -> Iterator[Serve]:
    """Starts `gllm serve`; afterwards no process of it is left."""
    started: list[Serving] = []

    def start(*flags: str) -> Serving:
        started.append(Serving(model, tmp_path, *flags))
        return started[-1]

    yield start
    for serving in started:
        pids = [serving.process.pid, *serving.children().values()] if serving.process.poll() is None else []
        serving.process.kill()
        serving.process.wait()
        serving.http.close()
        for pid in pids:
            until(partial(_gone, pid), 5)


def _gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def test_kill_9_of_worker_engine_and_gateway(serve: Serve) -> None:
    serving = serve()
    assert serving.ready_line.startswith(f"gLLM serves tiny at http://127.0.0.1:{serving.port} ")
    for epoch, role in enumerate(("worker", "engine"), start=1):
        streams = [Stream(serving, 1500) for _ in range(3)]
        before = serving.children()
        os.kill(before[role], signal.SIGKILL)
        until(lambda: not serving.ready(), 1.0)
        assert serving.healthy()
        assert serving.complete(8)["usage"]["completion_tokens"] == 8, "it waited for the new engine"
        assert serving.ready()
        after = serving.children()
        assert after["gateway"] == before["gateway"]
        assert not {after["engine"], after["worker"]} & set(before.values())
        assert f"(epoch {epoch})" in serving.err_path.read_text()
        for stream in streams:
            stream.join(60)
            assert stream.failure is None
            assert stream.events[-1] == "[DONE]"
            assert json.loads(stream.events[-2])["choices"][0]["finish_reason"] == "length"

    before = serving.children()
    os.kill(before["gateway"], signal.SIGKILL)

    def serves_again() -> bool:
        try:
            return serving.healthy()
        except httpx.HTTPError:
            return False

    until(lambda: serving.children().get("gateway", before["gateway"]) != before["gateway"], 10)
    until(serves_again, 30)
    assert serving.complete(8)["usage"]["completion_tokens"] == 8
    assert not set(serving.children().values()) & set(before.values())

    serving.process.send_signal(signal.SIGINT)
    status, err = serving.finish()
    assert status == 0
    assert "Traceback" not in err


def test_on_failure_exit(serve: Serve) -> None:
    serving = serve("--on-failure", "exit")
    stream = Stream(serving, ENDLESS)
    os.kill(serving.children()["worker"], signal.SIGKILL)
    assert "worker" in stream.error()
    status, err = serving.finish()
    assert status == 1
    assert err.splitlines()[-1] == "gllm: error: worker-0 was killed by SIGKILL (out of memory?)"
    assert "Traceback" not in err


def test_sigterm_drains_a_stream_to_its_end(serve: Serve) -> None:
    serving = serve("--drain-timeout", "60")
    stream = Stream(serving, 600)
    serving.process.send_signal(signal.SIGTERM)
    until(lambda: "finishing the requests" in serving.err_path.read_text(), 5)
    status, err = serving.finish()
    stream.join(5)
    assert stream.failure is None
    assert stream.events[-1] == "[DONE]"
    last = json.loads(stream.events[-2])
    assert last["choices"][0]["finish_reason"] == "length"
    assert status == 0
    assert "Traceback" not in err


def test_ctrl_c_ends_a_running_stream_quickly_and_quietly(serve: Serve) -> None:
    serving = serve()
    stream = Stream(serving, ENDLESS)
    serving.process.send_signal(signal.SIGINT)
    status, err = serving.finish()
    assert stream.error()
    assert status == 0
    assert "Traceback" not in err


def test_a_model_that_cannot_be_served_is_one_line(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["WeirdForCausalLM"]}))
    command = [sys.executable, "-m", "gllm.cli.main", "serve", str(tmp_path), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("gllm: error: ")
    assert "WeirdForCausalLM" in line
