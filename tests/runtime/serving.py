"""`gllm serve` as real processes for tests: masters, slaves, streams, and what is left of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx

from fixtures.ports import free_port

LIGHT = ["--device", "cpu", "--threads", "1", "--kv-cache-memory", "64M"]


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


class Process:
    """A `gllm serve`, master or slave, or another command; its stderr goes to a file."""

    def __init__(self, err_path: Path, *flags: str, env: dict[str, str] | None = None, command: str = "serve") -> None:
        self.err_path = err_path
        # A supervisor that is killed cannot remove its run_dir. A socket's path has at most 107 bytes, so it is short.
        self._run_base = tempfile.mkdtemp(prefix="run-", dir="/tmp")
        with err_path.open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gllm.apps.cli.main", command, *flags],
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                env={**os.environ, "XDG_RUNTIME_DIR": self._run_base, **(env or {})},
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def children(self) -> dict[str, int]:
        """Role (gateway, engine, worker-RANK) to pid, from the kernel."""
        found = {}
        try:
            pids = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return {}
        for pid in pids:
            try:
                module = re.search(r"gllm\.(gateway|engine|worker)\0", Path(f"/proc/{pid}/cmdline").read_text())
                rank = re.search(r"(?:^|\0)RANK=(\d+)\0", Path(f"/proc/{pid}/environ").read_text())
            except OSError:
                continue
            if module is not None and not gone(int(pid)):
                found[module[1] if module[1] != "worker" or rank is None else f"worker-{rank[1]}"] = int(pid)
        return found

    def kill(self, role: str, number: signal.Signals = signal.SIGKILL) -> int:
        pid = self.pid if role == "supervisor" else self.children()[role]
        os.kill(pid, number)
        return pid

    def err(self) -> str:
        return self.err_path.read_text()

    def wait_for_err(self, text: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.err():
            assert self.process.poll() is None or text in self.err(), f"ended: {self.err()}"
            assert time.monotonic() < deadline, f"no {text!r} in: {self.err()}"
            time.sleep(0.02)

    def finish(self, seconds: float = 60.0) -> int:
        return self.process.wait(timeout=seconds)

    def end(self) -> None:
        """Send SIGKILL to the processes that still run; afterwards none is left."""
        pids = [self.pid, *self.children().values()]
        if self.process.poll() is None:
            self.process.kill()
            os.kill(self.pid, signal.SIGCONT)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        for pid in pids:
            until(lambda pid=pid: gone(pid), 5)  # type: ignore[misc]
        shutil.rmtree(self._run_base, ignore_errors=True)


class Server(Process):
    """A `gllm serve` that speaks HTTP."""

    def __init__(
        self,
        model: Path,
        err_path: Path,
        *flags: str,
        env: dict[str, str] | None = None,
        command: str = "serve",
    ) -> None:
        self.port = free_port()
        light = LIGHT if command == "serve" else []
        own = [str(model), "--port", str(self.port), "--served-model-name", "tiny", *light]
        super().__init__(err_path, *own, *flags, env=env, command=command)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)

    def wait_ready(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.err()
        return line

    def ready(self) -> bool:
        return self._good("/ready")

    def healthy(self) -> bool:
        return self._good("/health")

    def _good(self, path: str) -> bool:
        try:
            return self.http.get(path).status_code == 200
        except httpx.HTTPError:
            return False

    def complete(self, **fields: Any) -> dict[str, Any]:
        response = self.http.post("/v1/completions", json=_body(fields))
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def text(self, **fields: Any) -> str:
        return str(self.complete(**fields)["choices"][0]["text"])

    def end(self) -> None:
        self.http.close()
        super().end()


def _body(fields: dict[str, Any]) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "the quick", "max_tokens": 32, "ignore_eos": True, "temperature": 0, **fields}


class Stream(threading.Thread):
    """A client that reads a stream until it ends or fails."""

    def __init__(self, server: Server, *, key: str = "", **fields: Any) -> None:
        super().__init__(daemon=True)
        self.texts: dict[int, str] = {}
        """The text so far, by index of the choice."""
        self.error = ""
        self.broken = False
        """Whether the connection failed; then `error` is not a message of the server."""
        self.finish_reasons: dict[int, str] = {}
        self.usage: dict[str, Any] = {}
        self.pieces: list[float] = []
        """time.monotonic() of each piece of text."""
        self.done = False
        self._url = f"http://127.0.0.1:{server.port}/v1/completions"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._body = _body(fields) | {"stream": True, "stream_options": {"include_usage": True}}
        self.start()

    def run(self) -> None:
        try:
            with httpx.stream("POST", self._url, json=self._body, headers=self._headers, timeout=300) as response:
                if response.status_code != 200:
                    self.error = response.read().decode()
                    return
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        self._take(line.removeprefix("data: "))
        except httpx.HTTPError as error:
            self.error = repr(error)
            self.broken = True

    def _take(self, data: str) -> None:
        if data == "[DONE]":
            self.done = True
            return
        event = json.loads(data)
        if "error" in event:
            self.error = event["error"]["message"]
            return
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            if choice.get("finish_reason"):
                self.finish_reasons[choice["index"]] = choice["finish_reason"]
            self.texts[choice["index"]] = self.texts.get(choice["index"], "") + choice["text"]
            if choice["text"]:
                self.pieces.append(time.monotonic())

    def wait_pieces(self, count: int) -> None:
        until(lambda: len(self.pieces) >= count or bool(self.error), 120)
        assert not self.error, self.error

    def result(self, seconds: float = 120.0) -> str:
        """Wait for the end of the stream, which must be regular, and return the whole text."""
        self.join(seconds)
        assert not self.is_alive(), f"the client hangs after {len(self.pieces)} pieces"
        assert not self.error, self.error
        assert self.done
        return self.text

    @property
    def text(self) -> str:
        return self.texts.get(0, "")

    @property
    def live(self) -> bool:
        """Whether the end of the stream has not arrived yet."""
        return self.is_alive() and not self.done


def end_all(processes: Iterable[Process]) -> None:
    for process in processes:
        process.end()
