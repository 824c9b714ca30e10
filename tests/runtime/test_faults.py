"""`gllm serve` with real processes: failures as clients see them, restarts, and the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import Server, Stream, end_all, until

from fixtures.ports import free_port
from fixtures.tiny_models import write_hf

ENDLESS = 30_000
"""Tokens that take longer than any test."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf("llama", tmp_path_factory.mktemp("faults"), max_position_embeddings=32768)


Serve = Callable[..., Server]


@pytest.fixture
def serve(model: Path, tmp_path: Path) -> Iterator[Serve]:
    """Starts `gllm serve`; afterwards no process of it is left."""
    started: list[Server] = []

    def start(*flags: str) -> Server:
        started.append(Server(model, tmp_path / "err", *flags))
        assert started[-1].wait_ready().startswith(f"gLLM serves tiny at http://127.0.0.1:{started[-1].port} ")
        return started[-1]

    yield start
    end_all(started)


def stream_of(server: Server, max_tokens: int) -> Stream:
    """Start a stream and wait for its first text."""
    stream = Stream(server, prompt="hello", max_tokens=max_tokens)
    stream.wait_pieces(1)
    return stream


def said(stream: Stream) -> str:
    """Return the message of the error event that ended the stream."""
    stream.join(10)
    assert not stream.is_alive(), "the client hangs"
    assert not stream.broken
    assert stream.error
    return stream.error


def tokens_of(server: Server, max_tokens: int) -> int:
    return int(server.complete(max_tokens=max_tokens)["usage"]["completion_tokens"])


def test_kill_9_of_worker_engine_and_gateway(serve: Serve) -> None:
    serving = serve()
    for epoch, role in enumerate(("worker-0", "engine"), start=1):
        streams = [stream_of(serving, 1500) for _ in range(3)]
        before = serving.children()
        os.kill(before[role], signal.SIGKILL)
        until(lambda: not serving.ready(), 1.0)
        assert serving.healthy()
        assert tokens_of(serving, 8) == 8, "it waited for the new engine"
        assert serving.ready()
        after = serving.children()
        assert after["gateway"] == before["gateway"]
        assert not {after["engine"], after["worker-0"]} & set(before.values())
        assert f"(epoch {epoch})" in serving.err()
        for stream in streams:
            assert stream.result(60)
            assert stream.finish_reasons == {0: "length"}

    before = serving.children()
    os.kill(before["gateway"], signal.SIGKILL)

    until(lambda: serving.children().get("gateway", before["gateway"]) != before["gateway"], 10)
    until(serving.healthy, 30)
    assert tokens_of(serving, 8) == 8
    assert not set(serving.children().values()) & set(before.values())

    serving.process.send_signal(signal.SIGINT)
    status, err = serving.finish(30), serving.err()
    assert status == 0
    assert "Traceback" not in err


def test_on_failure_exit(serve: Serve) -> None:
    serving = serve("--on-failure", "exit")
    stream = stream_of(serving, ENDLESS)
    os.kill(serving.children()["worker-0"], signal.SIGKILL)
    assert "worker" in said(stream)
    status, err = serving.finish(30), serving.err()
    assert status == 1
    assert err.splitlines()[-1] == "gllm: error: worker-0 was killed by SIGKILL (out of memory?)"
    assert "Traceback" not in err


def test_sigterm_drains_a_stream_to_its_end(serve: Serve) -> None:
    serving = serve("--drain-timeout", "60")
    stream = stream_of(serving, 600)
    serving.process.send_signal(signal.SIGTERM)
    until(lambda: "finishing running requests" in serving.err(), 5)
    status, err = serving.finish(30), serving.err()
    assert stream.result(5)
    assert stream.finish_reasons == {0: "length"}
    assert status == 0
    assert "Traceback" not in err


def test_ctrl_c_ends_a_running_stream_quickly_and_quietly(serve: Serve) -> None:
    serving = serve()
    stream = stream_of(serving, ENDLESS)
    serving.process.send_signal(signal.SIGINT)
    status, err = serving.finish(30), serving.err()
    assert said(stream)
    assert status == 0
    assert "Traceback" not in err


def test_kv_memory_that_does_not_exist_is_refused_in_one_line(model: Path) -> None:
    flags = ["--device", "cpu", "--kv-cache-memory", "100T", "--port", str(free_port())]
    command = [sys.executable, "-m", "gllm.apps.cli.main", "serve", str(model), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("gllm: error: --kv-cache-memory: 102400.0 GiB asked for, ")


def test_a_model_that_cannot_be_served_is_one_line(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["WeirdForCausalLM"]}))
    command = [sys.executable, "-m", "gllm.apps.cli.main", "serve", str(tmp_path), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("gllm: error: ")
    assert "WeirdForCausalLM" in line
