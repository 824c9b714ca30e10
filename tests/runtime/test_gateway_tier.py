"""`gllm gateway` in front of two groups: real processes over loopback TCP, with keys."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_tier import Tier, metric, requests_of, wait_for_engines
from serving import Server, Stream, end_all, until

from fixtures.ports import free_port
from fixtures.tiny_models import write_hf
from gllm.wire.curve import make_keys

pytestmark = pytest.mark.timing

LONG = 2500
"""Tokens of streams that a failure interrupts: seconds on an idle machine."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf("llama", tmp_path_factory.mktemp("tier"), max_position_embeddings=32768)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(make_keys().text())
    return str(path)


@pytest.fixture
def tier(model: Path, keys: str, tmp_path: Path) -> Iterator[Tier]:
    made = Tier(model, keys, tmp_path)
    yield made
    end_all(made.started)


def streams_of(gateway: Server, count: int, max_tokens: int = LONG) -> list[Stream]:
    streams = [Stream(gateway, prompt=f"number {n}", max_tokens=max_tokens) for n in range(count)]
    for stream in streams:
        stream.wait_pieces(1)
    return streams


def same_as_alone(gateway: Server, streams: list[Stream]) -> None:
    for n, stream in enumerate(streams):
        text = stream.result()
        assert stream.finish_reasons == {0: "length"}
        assert text == gateway.text(prompt=f"number {n}", max_tokens=LONG), n
        assert stream.usage["completion_tokens"] == LONG


def test_streams_of_a_lost_group_continue_in_the_other_one(tier: Tier) -> None:
    gateway, groups = tier.serving()
    streams = streams_of(gateway, 6)
    assert requests_of(gateway, groups) == [3, 3], "they are spread"
    groups[0].kill_all()
    at = time.monotonic()
    same_as_alone(gateway, streams)
    pauses = [max(b - a for a, b in zip(one.pieces, one.pieces[1:], strict=False) if b > at) for one in streams]
    assert max(pauses) < 3.0
    assert metric(gateway, "gllm:gateway_resubmitted_total") == "3.0"
    assert gateway.ready()

    # The engine alone is killed: the group restarts it, and nothing waits for that but what has no other place.
    streams = streams_of(gateway, 3)
    groups[1].kill("engine")
    same_as_alone(gateway, streams)
    assert "Traceback" not in gateway.err()


def test_requests_with_one_beginning_meet_on_one_engine(tier: Tier) -> None:
    """Two conversations, whose turns arrive in an order in which taking turns would always miss."""
    gateway, groups = tier.serving()
    beginnings = ["a cat sat on the mat " * 20, "the dog ran after a car " * 20]
    cached = []
    for turn in range(3):
        for beginning in beginnings if turn % 2 else reversed(beginnings):
            usage = gateway.complete(prompt=beginning + "so " * 16 * turn, max_tokens=2)["usage"]
            cached.append(usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"])
            until(lambda: requests_of(gateway, groups) == [0, 0], 5)
    assert cached[:2] == [0, 0]
    assert min(cached[2:]) > 0.6, cached
    salted = gateway.complete(prompt=beginnings[0], max_tokens=2, cache_salt="mine")["usage"]
    assert salted["prompt_tokens_details"]["cached_tokens"] == 0
    # The web page of the gateway has the events of both pipelines.
    watched: set[str] = set()
    with gateway.http.stream("GET", "/pipeline/events") as answer:
        for line in answer.iter_lines():
            if line.startswith('data: {"engine":'):
                watched.add(json.loads(line[6:])["engine"])
            if len(watched) == 2:
                break
    assert all(name.startswith("127.0.0.1:") for name in watched)


def test_a_group_that_drains_gets_no_new_requests_and_finishes_its_own(tier: Tier) -> None:
    gateway, groups = tier.serving()
    streams = streams_of(gateway, 4)
    groups[0].process.send_signal(signal.SIGTERM)
    groups[0].wait_for_err("finishing running requests")
    until(lambda: not groups[0].ready(), 10)
    assert requests_of(gateway, groups) == [2, 2]
    later = [Stream(gateway, prompt="later", max_tokens=LONG) for _ in range(3)]
    until(lambda: requests_of(gateway, groups) == [2, 5], 5)
    for stream in later:
        assert stream.result()
    same_as_alone(gateway, streams)
    assert groups[0].finish(30) == 0
    assert metric(gateway, "gllm:gateway_resubmitted_total") == "0.0"


def test_a_gateway_takes_only_its_own_connections_with_it(tier: Tier) -> None:
    gateway, groups = tier.serving()
    other = tier.gateway(*groups)
    other.wait_ready()
    wait_for_engines(other, 2)
    mine, others = streams_of(gateway, 2), streams_of(other, 2)
    gateway.kill("supervisor")
    for stream in mine:
        stream.join(10)
        assert stream.broken
    until(lambda: sum(group.running() for group in groups) <= 2, 10)  # The engines abort requests without a client.
    same_as_alone(other, others)


def test_requests_wait_for_an_engine_and_then_fail(tier: Tier) -> None:
    group = tier.group()
    gateway, impatient = tier.gateway(group), tier.gateway(group, flags=("--engine-timeout", "1"))
    gateway.wait_ready()
    impatient.wait_ready()
    (stream,) = streams_of(gateway, 1)
    group.kill_all()
    until(lambda: gateway.http.get("/ready").status_code == 503, 10)
    assert gateway.http.get("/ready?recovering=true").status_code == 200
    waiting = Stream(gateway, prompt="number 1", max_tokens=5)
    failed = impatient.http.post("/v1/completions", json={"prompt": "a"})
    assert failed.status_code == 503
    assert "no engine served within 1 s" in failed.json()["error"]["message"]
    assert impatient.healthy()
    tier.group(engine_port=group.engine_port).wait_ready()
    assert stream.result()
    assert waiting.result()


def test_other_keys_and_other_models_are_refused(tier: Tier, tmp_path: Path) -> None:
    group = tier.group()
    group.wait_ready()
    foreign = tmp_path / "foreign"
    foreign.write_text(make_keys().text())
    stranger = Tier(tier.model, str(foreign), tmp_path / "a")
    stranger.folder.mkdir()
    other = Tier(write_hf("llama", tmp_path / "other", max_position_embeddings=512), tier.keys, tmp_path / "b")
    other.folder.mkdir()
    try:
        wrong_keys, wrong_model = stranger.gateway(group), other.gateway(group)
        wrong_keys.wait_for_err("no engine")
        wrong_model.wait_for_err("it serves another model: the configurations differ")
        assert not wrong_keys.ready()
        assert not wrong_model.ready()
        refused = wrong_model.http.post("/v1/completions", json={"prompt": "a"})
        assert refused.status_code == 503
    finally:
        end_all([*stranger.started, *other.started])


def test_errors_of_the_command_are_one_line(model: Path) -> None:
    for flags, said in (
        (("--engines", "nowhere"), "'nowhere' is not an address of an engine"),
        (("--engines", ","), "name at least one engine"),
        (("--engines", "127.0.0.1:1"), "several machines need keys"),
    ):
        command = [sys.executable, "-m", "gllm.apps.cli.main", "gateway", str(model), *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        assert said in " ".join(done.stderr.replace("│", " ").split()), done.stderr


def idle_seconds(gateway: Server) -> float:
    return float(gateway.http.get("/ready").json()["models"]["tiny"]["idle_seconds"])


def test_requests_wait_for_the_first_engine_within_limits(tier: Tier) -> None:
    port = free_port()
    flags = ("--engines", f"127.0.0.1:{port}", "--keys-file", tier.keys, "--wait-for-engine")
    flags += ("--max-queued-requests", "2", "--engine-timeout", "60")
    gateway = Server(tier.model, tier.folder / "gateway", *flags, command="gateway")
    tier.started.append(gateway)
    until(gateway.healthy, 60)
    until(lambda: gateway.http.get("/ready", params={"recovering": True}).status_code == 200, 30)
    answer = gateway.http.get("/ready")
    assert answer.status_code == 503
    assert idle_seconds(gateway) > 0
    streams = [Stream(gateway, prompt=f"number {n}", max_tokens=8) for n in range(2)]
    until(lambda: idle_seconds(gateway) == 0, 10)
    until(lambda: gateway.http.get("/load").json()["server_load"] == 2, 10)
    body = {"prompt": "one more", "max_tokens": 8}
    assert gateway.http.post("/v1/completions", json=body).status_code == 429
    tier.group(engine_port=port)
    for stream in streams:
        stream.result()
        assert stream.finish_reasons == {0: "length"}
    assert gateway.ready()
    assert idle_seconds(gateway) > 0


def test_requests_do_not_wait_for_an_engine_for_ever(tier: Tier) -> None:
    flags = ("--engines", f"127.0.0.1:{free_port()}", "--keys-file", tier.keys, "--wait-for-engine")
    gateway = Server(tier.model, tier.folder / "gateway", *flags, "--engine-timeout", "1", command="gateway")
    tier.started.append(gateway)
    until(gateway.healthy, 60)
    until(lambda: gateway.http.get("/ready", params={"recovering": True}).status_code == 200, 30)
    answer = gateway.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 8})
    assert answer.status_code == 503
    assert "no engine served within 1 s" in answer.text
    assert gateway.http.get("/load").json()["server_load"] == 0
