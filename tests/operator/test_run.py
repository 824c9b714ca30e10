"""`gllm run -f`: local processes answer requests, recover from a killed slave, and drain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fixtures.ports import free_port
from gllm.hub.default_model import default_model_path

_EXAMPLE = Path(__file__).parents[2] / "examples" / "smol.yaml"


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(params=[False, True], ids=["group", "gateway"])
def behind_gateway(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def running(port: int, tmp_path: Path, behind_gateway: bool) -> Iterator[subprocess.Popen[str]]:
    try:
        default_model_path()
    except ValueError as error:
        pytest.skip(str(error))
    manifest = yaml.safe_load(_EXAMPLE.read_text())
    manifest["spec"]["server"] = {"port": port}
    manifest["spec"]["network"] = {"masterPort": 20000 + port % 5000 * 3}
    if behind_gateway:
        manifest["spec"]["gateway"] = {"enginePort": free_port()}
    file = tmp_path / "smol.yaml"
    file.write_text(yaml.safe_dump(manifest))
    command = [sys.executable, "-m", "gllm", "run", "-f", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        yield process
        process.kill()


@pytest.mark.timing
def test_run_answers_recovers_and_drains(running: subprocess.Popen[str], port: int, behind_gateway: bool) -> None:
    url = f"http://127.0.0.1:{port}"
    _until_ready(url, running)
    pods = _children(running.pid)
    assert len(pods) == 2 + behind_gateway
    assert _ask(url, 8)["usage"]["completion_tokens"] == 8
    # A killed slave is restarted, and the running request continues.
    answer: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answer.append(_ask(url, 60)))
    asking.start()
    time.sleep(0.3)
    os.kill(pods[1], signal.SIGKILL)
    asking.join(90)
    assert [one["usage"]["completion_tokens"] for one in answer] == [60]
    # SIGTERM drains.
    asking = threading.Thread(target=lambda: answer.append(_ask(url, 60)))
    asking.start()
    time.sleep(0.5)
    running.terminate()
    asking.join(60)
    assert answer[-1]["usage"]["completion_tokens"] == 60
    assert len(answer) == 2
    assert running.wait(30) == 0
    assert running.stdout is not None
    said = running.stdout.read()
    assert f"serves at {url}/v1" in said
    assert said.count("Joined") == 2


def _ask(url: str, tokens: int) -> dict[str, Any]:
    body = {"model": "smollm2", "prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=90) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


def _until_ready(url: str, process: subprocess.Popen[str]) -> None:
    for _ in range(180):
        assert process.poll() is None
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError("it does not get ready")


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
