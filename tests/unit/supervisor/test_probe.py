"""Probes of slaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from gllm.supervisor.probe import main, not_joined, not_running, remote_ports

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
