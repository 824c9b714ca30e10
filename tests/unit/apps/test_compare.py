"""The comparison script: its arithmetic, and what it reads from /proc."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

import compare_vllm_cpu
import process_tree
import servers


def test_process_tree_counts_descendants() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while len(found := process_tree.tree(child.pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert found[0] == child.pid
        assert process_tree.memory_bytes(child.pid) > 1_000_000
        assert process_tree.cpu_seconds(child.pid) > 0
    finally:
        child.communicate(b"\n\n")
    assert process_tree.memory_bytes(child.pid) == 0


def test_watch_sees_memory_and_cpu() -> None:
    with process_tree.Watch(os.getpid()) as watch:
        sum(range(2_000_000))
    assert watch.peak_bytes > 1_000_000
    assert 0 < watch.server_cpu <= 1.05
    assert watch.foreign_cpu >= 0


def test_servers_take_turns_at_being_first() -> None:
    pair = [SimpleNamespace(name="a"), SimpleNamespace(name="b")]
    order = [(server.name, workload, repeat) for server, workload, repeat in compare_vllm_cpu.schedule(pair, 2)]
    assert order == [
        ("a", "batch", 0),
        ("b", "batch", 0),
        ("a", "single", 0),
        ("b", "single", 0),
        ("b", "batch", 1),
        ("a", "batch", 1),
        ("b", "single", 1),
        ("a", "single", 1),
    ]


def run(server: str, workload: str, throughput: float, tpot: float) -> dict:
    figures = {"output_throughput": throughput, "total_token_throughput": 2 * throughput, "mean_tpot_ms": tpot}
    return {
        "server": server,
        "workload": workload,
        "mean_ttft_ms": 10.0,
        "peak_memory_bytes": 2e9,
        "foreign_cpu": 0.0,
        **figures,
    }


def test_table_has_medians_ranges_and_ratios() -> None:
    runs = [run("vllm-cpu", "batch", value, 100.0) for value in (100.0, 120.0, 90.0)]
    runs += [run("gllm", "batch", value, 50.0) for value in (200.0, 180.0, 270.0)]
    table = compare_vllm_cpu.markdown({"runs": runs, "startup_seconds": {"gllm": 5.0}}).splitlines()
    assert table[2] == "| batch: output tok/s | 100.0 (90.0 to 120.0) | 200.0 (180.0 to 270.0) | 2.00 (1.50 to 3.00)x |"
    assert "2.00 (2.00 to 2.00)x" in table[5]
    assert table[-1] == "| start to ready, s | - | 5.0 | |"


def test_a_server_that_dies_says_why(tmp_path: Path) -> None:
    command = servers.ServerCommand("broken", [sys.executable, "-c", "raise SystemExit('no memory')"], 9)
    with pytest.raises(RuntimeError, match="no memory"):
        servers.Server(command, tmp_path / "log")


def test_settings_are_the_fair_ones() -> None:
    vllm = servers.vllm_command(Path("/venv"), Path("/model"), cores=2)
    assert vllm.env["VLLM_CPU_OMP_THREADS_BIND"] == "0-1"
    ours = servers.gllm_command(Path("/model"))
    for command, flag in ((vllm, "--no-enable-prefix-caching"), (ours, "--no-prefix-caching")):
        assert flag in command.command
        assert command.command[command.command.index("--dtype") + 1] == "bfloat16"
        assert command.command[command.command.index("--max-model-len") + 1] == "2048"
