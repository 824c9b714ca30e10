"""What pods need of the command line: probes of slaves, and the download of a model."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gllm.cli.fetch import download, is_wanted
from gllm.cli.probe import main, not_joined, not_running, remote_ports

_TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:C001 0100007F:733C 01 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0100007F:C002 0100007F:733D 01 00000000:00000000 00:00000000 00000000     0        0 3
   3: 0100007F:C003 0100007F:733D 06 00000000:00000000 00:00000000 00000000     0        0 4
"""


def test_links_are_read_from_the_kernels_table() -> None:
    ports = remote_ports(_TABLE)
    assert ports == [29500, 29501]
    assert not_joined(ports, 29500, 29501, 1) == ""
    assert "1 of 2 workers" in not_joined(ports, 29500, 29501, 2)
    assert "no link" in not_joined([], 29500, 29501, 1)


def test_a_process_that_wakes_up_runs_and_a_stopped_one_does_not() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time\nwhile True: time.sleep(0.05)"])
    try:
        assert not_running(process.pid) == ""
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert "stopped" in not_running(process.pid)
    finally:
        process.kill()
        process.wait()
    assert "gone" in not_running(process.pid)


def test_a_process_that_spins_is_hung() -> None:
    process = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert "did not wake up" in not_running(process.pid, within=0.5)
    finally:
        process.kill()
        process.wait()


def test_the_probe_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["joined", "--link-port", "1", "--plans-port", "2"]) == 1
    assert "no link to the master (port 1)" in capsys.readouterr().out


_FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 1000, "sub/tokenizer.json": b"[]", "x.bin": b"no"}


class _Hub(http.server.BaseHTTPRequestHandler):
    failures = 0

    def do_GET(self) -> None:
        if self.path == "/api/models/org/name/revision/main":
            self._send(json.dumps({"siblings": [{"rfilename": name} for name in [*_FILES, "../evil.json"]]}).encode())
            return
        name = self.path.removeprefix("/org/name/resolve/main/")
        if name not in _FILES:
            self.send_error(404)
            return
        body = _FILES[name]
        if name.endswith(".safetensors") and _Hub.failures:
            _Hub.failures -= 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:100])
            return
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self._send(body[start:], 206 if start else 200)

    def _send(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("gllm.cli.fetch.time.sleep", lambda seconds: None)
    yield
    server.shutdown()


@pytest.mark.parametrize("failures", [0, 2])
@pytest.mark.usefixtures("hub")
def test_fetch(failures: int, tmp_path: Path) -> None:
    _Hub.failures = failures
    told: list[str] = []
    folder = tmp_path / "org" / "name" / "main"
    download("org/name", "main", folder, told.append)
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {name: body for name, body in _FILES.items() if name != "x.bin"}
    assert [path.name for path in folder.parent.iterdir()] == ["main"]
    download("org/name", "main", folder, told.append)
    assert "there already" in told[-1]


@pytest.mark.usefixtures("hub")
def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no"):
        download("org/other", "main", tmp_path / "x", lambda text: None)
    assert not (tmp_path / "x").exists()


def test_files_stay_in_the_folder() -> None:
    assert is_wanted("a/tokenizer.json")
    assert not any(map(is_wanted, ("../a.json", "/a.json", "model.bin", "onnx/config.json", "a/../../b.json")))
