"""One real `gllm serve` for all clients, with the default model and no flags.

These tests run in their own environment (`make test-clients`); the server runs in the project's.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLLM = os.environ.get("GLLM", str(ROOT / ".venv" / "bin" / "gllm"))
READY_SECONDS = 120

# Clients must not send telemetry or contact a hub.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "OPENAI_API_KEY": "none",
        "ANTHROPIC_API_KEY": "none",
    }
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that is ready, http://127.0.0.1:PORT."""
    port = _free_port()
    log = tmp_path_factory.mktemp("server") / "stderr"
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as stderr:
        process = subprocess.Popen([GLLM, "serve", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not _ready(url):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _ready(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{url}/ready", timeout=5).status == 200)
    except OSError:
        return False


@pytest.fixture(scope="session")
def v1(server: str) -> str:
    """The base URL for OpenAI's clients."""
    return f"{server}/v1"


@pytest.fixture(scope="session")
def model() -> str:
    return "SmolLM2-135M-Instruct"
