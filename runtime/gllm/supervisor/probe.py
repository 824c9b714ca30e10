"""`python -m gllm.supervisor.probe`: exec probe for Kubernetes: whether the slave in this container works.

A slave has no HTTP server, so the probe reads the kernel's tables: the connections to the master, and whether the
supervisor wakes up. It imports only the standard library, because it starts every few seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

_ESTABLISHED = "01"
_WAKES_WITHIN = 3.0
"""Seconds within which a supervisor must wake up; its shortest interval is half a second."""


def remote_ports(tables: str) -> list[int]:
    """Return the remote ports of established TCP connections, from the text of /proc/net/tcp and tcp6."""
    ports = []
    for line in tables.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[3] == _ESTABLISHED:
            ports.append(int(fields[2].rpartition(":")[2], 16))
    return ports


def not_joined(ports: list[int], link_port: int, plans_port: int, workers: int) -> str:
    """Return why the slave has not joined; empty if it has."""
    if link_port not in ports:
        return f"no link to the master (port {link_port})"
    connected = ports.count(plans_port)
    if connected < workers:
        return f"{connected} of {workers} workers are connected to the engine (port {plans_port})"
    return ""


def not_running(pid: int, within: float = _WAKES_WITHIN) -> str:
    """Return why the process counts as hung; empty if its main thread sleeps and wakes up."""
    deadline = time.monotonic() + within
    try:
        before = _sleeps(pid)
        while time.monotonic() < deadline:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "Z"):
                return f"process {pid} is stopped"
            time.sleep(0.1)
            if _sleeps(pid) > before:
                return ""
    except OSError:
        return f"process {pid} is gone"
    return f"process {pid} did not wake up within {within:g} s"


def _sleeps(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gllm.supervisor.probe", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    joined = commands.add_parser("joined", help="the master has this slave, and the engine its workers")
    joined.add_argument("--link-port", type=int, required=True)
    joined.add_argument("--plans-port", type=int, required=True)
    running = commands.add_parser("running", help="the supervisor is not hung")
    running.add_argument("--pid", type=int, default=1)
    given = parser.parse_args(arguments)
    if given.command == "joined":
        tables = "".join(path.read_text() for path in map(Path, ("/proc/net/tcp", "/proc/net/tcp6")) if path.exists())
        workers = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
        problem = not_joined(remote_ports(tables), given.link_port, given.plans_port, workers)
    else:
        problem = not_running(given.pid)
    if problem:
        print(problem)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
