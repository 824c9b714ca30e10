"""Processes are killed under load: a client sees only a pause, and each text equals that of a run without failures."""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Server, Stream, end_all, until

from fixtures.tiny_models import write_hf

Start = Callable[..., Server]

SHAPES = {"pp1": [], "pp2": ["--pp", "2"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf("llama", tmp_path_factory.mktemp("recovery"), max_position_embeddings=16384)


@pytest.fixture
def start(model: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[Server] = []

    def one(*flags: str) -> Server:
        started.append(Server(model, tmp_path / f"err-{len(started)}", *flags))
        started[-1].wait_ready()
        return started[-1]

    yield one
    end_all(started)


VARIETY: list[dict[str, Any]] = [
    {"max_tokens": 900},
    {"max_tokens": 700, "temperature": 1.0, "seed": 7, "top_p": 0.9},
    {"max_tokens": 500, "temperature": 0.8, "seed": 11, "frequency_penalty": 0.4, "presence_penalty": 0.2},
    {"max_tokens": 600, "repetition_penalty": 1.2, "min_tokens": 300, "ignore_eos": False},
    {"max_tokens": 400, "logit_bias": {"40": 3.0}, "temperature": 1.2, "seed": 3},
    {"max_tokens": 900, "guided_regex": "([a-z]{3} ){150,200}", "ignore_eos": False},
    {"max_tokens": 800, "stop": ["zzzz"], "n": 2, "temperature": 0.7, "seed": 5},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_all_kinds_of_requests_continue_with_the_same_tokens(start: Start, shape: str) -> None:
    """Seeds, penalties, limits, grammars and usage, when the engine is killed and then a worker."""
    server = start(*SHAPES[shape])
    requests = [{"prompt": f"the lazy dog {number}", **fields} for number, fields in enumerate(VARIETY)]
    alone = [Stream(server, **fields) for fields in requests]
    expected = [(stream.result(), stream.texts, stream.usage) for stream in alone]
    streams = [Stream(server, **fields) for fields in requests]
    for stream in streams:
        stream.wait_pieces(3)
    server.kill("engine")
    until(lambda: not server.ready(), 5)
    assert all(stream.live for stream in streams), "the new engine has to continue all of them"
    server.wait_for_err("serving again (epoch 1)")
    until(lambda: all(stream.pieces[-1] > time.monotonic() - 1.0 or not stream.live for stream in streams))
    server.kill("worker-0")
    assert sum(stream.live for stream in streams) >= 3
    for number, (stream, (_, texts, usage)) in enumerate(zip(streams, expected, strict=True)):
        stream.result()
        assert stream.texts == texts, requests[number]
        assert stream.usage["completion_tokens"] == usage["completion_tokens"]
        assert stream.usage["prompt_tokens"] == usage["prompt_tokens"]
    assert "serving again (epoch 2)" in server.err()


def test_logprobs_come_once(start: Start) -> None:
    server = start()
    fields = {"prompt": "over the fox", "max_tokens": 4000, "logprobs": 1, "prompt_logprobs": 1}
    expected = server.complete(**fields)["choices"][0]
    answers: list[dict[str, Any]] = []

    import threading

    client = threading.Thread(target=lambda: answers.append(server.complete(**fields)["choices"][0]))
    client.start()
    until(lambda: "gllm:time_to_first_token_seconds_count" in server.http.get("/metrics").text)
    first = re.compile(r"gllm:time_to_first_token_seconds_count\{[^}]*\} 2\.0")
    until(lambda: first.search(server.http.get("/metrics").text) is not None)
    server.kill("worker-0")
    until(lambda: not server.ready(), 5)
    assert client.is_alive(), "it has a token and waits for the rest"
    client.join(60)
    assert answers[0]["text"] == expected["text"]
    assert answers[0]["logprobs"]["tokens"] == expected["logprobs"]["tokens"]
    assert len(answers[0]["logprobs"]["token_logprobs"]) == 4000
    assert answers[0]["prompt_logprobs"] == expected["prompt_logprobs"]
    assert "serving again (epoch 1)" in server.err()


def test_a_stopped_engine_worker_or_gateway_is_replaced(start: Start) -> None:
    server = start("--pp", "2")
    text = server.text(max_tokens=3000)
    for role in ("engine", "worker-1"):
        stream = Stream(server, max_tokens=3000)
        stream.wait_pieces(20)
        server.kill(role, signal.SIGSTOP)
        assert stream.result() == text
        assert f"{role} was stopped by a signal, and killed" in server.err()
    server.kill("gateway", signal.SIGSTOP)
    server.wait_for_err("gateway was stopped by a signal, and killed")
    until(server.ready, 60)
    assert server.text(max_tokens=3000) == text


_HANG = """
import ctypes, os, threading, time
def hang(path):
    while True:
        try:
            os.unlink(path)  # Only once: the worker of the next epoch does not hang.
        except OSError:
            time.sleep(0.02)
        else:
            ctypes.PyDLL(None).sleep(600)  # A PyDLL call keeps the interpreter's lock: no other thread runs.
if os.environ.get("RANK") == "1":
    threading.Thread(target=hang, args=(os.environ["HANG_FILE"],), daemon=True).start()
"""


def test_a_hung_worker_is_noticed_by_its_step(model: Path, tmp_path: Path) -> None:
    """The process runs, as the kernel sees it, but computes nothing: as in a collective that never ends."""
    (tmp_path / "sitecustomize.py").write_text(_HANG)
    trigger = tmp_path / "hang"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = {"PYTHONPATH": path, "HANG_FILE": str(trigger)}
    server = Server(model, tmp_path / "err", "--pp", "2", "--step-timeout", "2", env=env)
    try:
        server.wait_ready()
        text = server.text(max_tokens=3000)
        stream = Stream(server, max_tokens=3000)
        stream.wait_pieces(20)
        trigger.touch()
        until(lambda: not server.ready(), 15)
        assert stream.live
        assert stream.result() == text
        assert re.search(r"step \d+ had no result for \d s \(--step-timeout 2\): a worker hangs", server.err())
        assert "serving again (epoch 1)" in server.err()
        # Before the supervisor killed the workers it logged their stacks, with their names.
        stacks = [line for line in server.err().splitlines() if " error supervisor worker-" in line]
        assert any("worker-1   File" in line and "sitecustomize.py" in line and " in hang" in line for line in stacks)
        assert any("worker-0   File" in line and "gllm/worker/__main__.py" in line for line in stacks)
    finally:
        server.end()


@pytest.mark.timing
def test_every_class_of_process_dies(start: Start) -> None:
    """Kill each class of process in turn, under load: five times each (twenty with GLLM_TEST_DEATHS=80)."""
    server = start("--pp", "2")
    prompts = [f"quick brown {number}" for number in range(6)]
    expected = [server.text(prompt=prompt, max_tokens=400) for prompt in prompts]
    victims = itertools.cycle(["worker-0", "engine", "worker-1", "gateway"])
    slowest = 0.0
    continued = 0
    deaths = int(os.environ.get("GLLM_TEST_DEATHS", "20"))
    assert deaths >= 4, "GLLM_TEST_DEATHS: at least one death of each class"
    for _ in range(deaths):
        victim = next(victims)
        streams = [Stream(server, prompt=prompt, max_tokens=400) for prompt in prompts]
        for stream in streams:
            stream.wait_pieces(5)
        pid, killed = server.kill(victim), time.monotonic()
        if victim == "gateway":
            # Its clients have lost their connections; later ones must be served.
            until(lambda pid=pid: server.children().get("gateway", pid) != pid, 30)  # type: ignore[misc]
            until(server.ready, 60)
            continue
        for stream, text in zip(streams, expected, strict=True):
            assert stream.result() == text
        after = [moment for moment in streams[-1].pieces if moment > killed + 0.5]
        continued += bool(after)
        slowest = max(slowest, after[0] - killed if after else 0.0)
    print(f"{deaths} deaths, slowest recovery {slowest:.1f} s, {continued} in the middle of a stream that continued")
    assert continued >= 0.65 * deaths  # three kills of four can count: a killed gateway ends its streams
    assert server.err().count("serving again") == deaths
    assert server.text(prompt=prompts[0], max_tokens=400) == expected[0]
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGTERM)
    assert server.finish() == 0


@pytest.mark.timing
def test_the_deadline_ends_with_a_clear_error(start: Start, model: Path, tmp_path: Path) -> None:
    """A worker whose weights were deleted cannot start again."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    server = Server(copy, tmp_path / "err", "--recovery-timeout", "4")
    try:
        server.wait_ready()
        stream = Stream(server, max_tokens=8000)
        stream.wait_pieces(10)
        (copy / "model.safetensors").unlink()
        killed = time.monotonic()
        server.kill("worker-0")
        until(lambda: not server.ready(), 5)
        assert server.healthy()
        stream.join(30)
        assert 3 < time.monotonic() - killed < 10
        assert "could not serve again within 4 s (--recovery-timeout)" in stream.error
        assert server.finish() == 1
        assert server.err().splitlines()[-1].startswith("gllm: error: could not serve again within 4 s")
        assert "Traceback" not in server.err()
    finally:
        server.end()


def test_without_restarts_a_failure_ends_the_server_at_once(start: Start) -> None:
    server = start("--on-failure", "exit")
    stream = Stream(server, max_tokens=8000)
    stream.wait_pieces(10)
    server.kill("worker-0")
    stream.join(10)
    assert "worker-0 was killed by SIGKILL" in stream.error
    assert server.finish() == 1


def test_requests_of_a_recovery_wait_and_are_bounded(start: Start) -> None:
    """During a restart new requests wait; beyond the bound of the queue they get 429 at once."""
    server = start("--max-num-seqs", "2", "--max-queued-requests", "2")
    server.kill("worker-0")
    until(lambda: not server.ready(), 5)
    waiting = [Stream(server, max_tokens=20) for _ in range(4)]
    until(lambda: "gllm:num_requests" in server.http.get("/metrics").text, 5)
    time.sleep(0.3)
    refused = server.http.post("/v1/completions", json={"model": "tiny", "prompt": "a", "max_tokens": 4})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    texts = {stream.result() for stream in waiting}
    assert texts == {server.text(max_tokens=20)}


def test_sigterm_in_a_recovery_finishes_the_waiting_requests(start: Start) -> None:
    server = start()
    text = server.text(max_tokens=2000)
    stream = Stream(server, max_tokens=2000)
    stream.wait_pieces(10)
    server.kill("engine")
    server.process.send_signal(signal.SIGTERM)
    assert stream.result() == text
    assert server.finish() == 0
    assert "serving again (epoch 1)" in server.err()


@pytest.mark.timing
@pytest.mark.parametrize("shape", SHAPES)
def test_an_idle_server_uses_no_core(start: Start, shape: str) -> None:
    """All processes together use less than 2 % of one core."""
    server = start(*SHAPES[shape])
    server.text()
    pids = [server.pid, *server.children().values()]

    def used() -> float:
        ticks = 0
        for pid in pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    time.sleep(1.0)
    before, began = used(), time.monotonic()
    time.sleep(10.0)
    share = (used() - before) / (time.monotonic() - began)
    print(f"idle, {shape}: {share:.2%} of a core")
    assert share < 0.02


def test_thousands_of_requests_leave_nothing_behind(start: Start) -> None:
    """Mixed lengths, aborts and disconnects over HTTP leak no page, no request and no file descriptor.

    1200 requests, or the number in GLLM_TEST_REQUESTS.
    """
    import random
    import threading

    server = start("--max-num-seqs", "64")
    draw = random.Random(1)
    count = int(os.environ.get("GLLM_TEST_REQUESTS", "1200"))
    ways = ["text", "stream", "leave"]
    requests = [(draw.choice(ways), draw.randint(1, 200), draw.randint(1, 24)) for _ in range(count)]

    def descriptors() -> dict[str, int]:
        return {role: len(os.listdir(f"/proc/{pid}/fd")) for role, pid in server.children().items()}

    def work(part: list[tuple[str, int, int]]) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=120) as http:
            for kind, prompt, max_tokens in part:
                body = {"model": "tiny", "prompt": [3 + prompt % 50] * prompt, "max_tokens": max_tokens}
                if kind == "text":
                    assert http.post("/v1/completions", json=body).status_code == 200
                    continue
                with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
                    for _ in response.iter_lines():
                        if kind == "leave":
                            break

    work(requests[:40])
    time.sleep(0.5)
    before = descriptors()
    clients = [threading.Thread(target=work, args=(requests[n::12],)) for n in range(12)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(300 + count / 20)
        assert not client.is_alive()

    def metric(name: str) -> float:
        lines = server.http.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(name)).rsplit(" ", 1)[1])

    until(lambda: metric("gllm:num_requests_running") == metric("gllm:num_requests_waiting") == 0, 10)
    until(lambda: metric("gllm:kv_cache_usage_perc") == 0.0, 10)
    until(lambda: all(count <= before[role] + 4 for role, count in descriptors().items()), 20)
    assert server.text() == server.text()
