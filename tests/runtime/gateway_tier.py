"""A gateway in front of groups, as real processes over loopback TCP, with keys."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from serving import Server, until

from fixtures.ports import free_port


class Group(Server):
    def __init__(self, model: Path, keys: str, err_path: Path, *flags: str, engine_port: int = 0) -> None:
        self.engine_port = engine_port or free_port()
        link = ("--engine-port", str(self.engine_port), "--keys-file", keys)
        super().__init__(model, err_path, *link, *flags)

    def kill_all(self) -> None:
        """What a lost machine does: no process says goodbye."""
        for pid in (self.pid, *self.children().values()):
            os.kill(pid, signal.SIGKILL)

    def running(self) -> int:
        return int(float(metric(self, "gllm:num_requests_running")))


def metric(server: Server, name: str) -> str:
    lines = server.http.get("/metrics").text.splitlines()
    return next(line.rpartition(" ")[2] for line in lines if line.startswith(name))


class Tier:
    """A gateway in front of some groups."""

    def __init__(self, model: Path, keys: str, folder: Path) -> None:
        self.model, self.keys, self.folder = model, keys, folder
        self.started: list[Server] = []

    def group(self, *flags: str, engine_port: int = 0) -> Group:
        path = self.folder / f"group-{len(self.started)}"
        self.started.append(Group(self.model, self.keys, path, *flags, engine_port=engine_port))
        assert isinstance(self.started[-1], Group)
        return self.started[-1]

    def gateway(self, *groups: Group, flags: tuple[str, ...] = ()) -> Server:
        places = ",".join(f"127.0.0.1:{group.engine_port}" for group in groups)
        flags = ("--engines", places, "--keys-file", self.keys, *flags)
        self.started.append(Server(self.model, self.folder / "gateway", *flags, command="gateway"))
        return self.started[-1]

    def serving(self, count: int = 2) -> tuple[Server, list[Group]]:
        groups = [self.group() for _ in range(count)]
        gateway = self.gateway(*groups)
        assert gateway.wait_ready().startswith(f"gLLM serves tiny at http://127.0.0.1:{gateway.port} ")
        wait_for_engines(gateway, count)
        return gateway, groups


def wait_for_engines(gateway: Server, count: int) -> None:
    def all_up() -> bool:
        lines = gateway.http.get("/metrics").text.splitlines()
        return sum(line.startswith("gllm:gateway_engine_up{") and line.endswith(" 1.0") for line in lines) == count

    until(all_up, 60)


def requests_of(gateway: Server, groups: list[Group]) -> list[int]:
    name = 'gllm:gateway_engine_requests{address="127.0.0.1:'
    return [int(float(metric(gateway, f"{name}{group.engine_port}"))) for group in groups]
