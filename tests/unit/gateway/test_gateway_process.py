"""`python -m gllm.gateway` as the supervisor runs it, with real tokenizer files and an engine behind sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest
import zmq
from gateway_fakes import EOS, TEMPLATE, VOCAB, byte_tokenizer, wait_until

from fixtures.ports import free_port
from gllm.config import Config, EngineConfig, GatewayConfig
from gllm.wire.messages import (
    Abort,
    Connect,
    Drain,
    EngineDown,
    EngineStats,
    EngineUp,
    GatewayToEngine,
    Hello,
    Loading,
    ProcessStatus,
    RequestOutput,
    RequestOutputs,
    Submit,
    SupervisorToProcess,
)
from gllm.wire.transport import configure_socket, decoder, encode

BODY = {"prompt": "a"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without weights: the files that a gateway reads."""
    path = tmp_path_factory.mktemp("tiny-model")
    (path / "tokenizer.json").write_text(byte_tokenizer().to_json())
    (path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<eos>", "bos_token": "<bos>", "chat_template": TEMPLATE})
    )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": VOCAB,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "eos_token_id": EOS,
        "bos_token_id": 257,
        "torch_dtype": "float32",
        "hidden_act": "silu",
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 0.7, "top_k": 9}))
    return path


class Group:
    """The supervisor's and the engine's ends of the sockets, and the gateway process."""

    def __init__(self, folder: Path, port: int = 0, drain_timeout: float = 10.0, drain_delay: float = 0.0) -> None:
        self.run_dir = tempfile.TemporaryDirectory(prefix="gllm")
        self.port = port or free_port()
        self.config = Config(
            engine=EngineConfig(model=str(folder)),
            gateway=GatewayConfig(port=self.port, drain_timeout=drain_timeout, drain_delay=drain_delay),
            run_dir=self.run_dir.name,
        )
        self.url = f"http://127.0.0.1:{self.port}"
        self.context = zmq.Context()
        self.control = self._bind(self.config.control_address)
        self.engine = self._bind(self.config.engine_address_of(1))
        self.states: list[str] = []
        self.details: list[str] = []
        self.submitted: list[Submit] = []
        self.aborted: list[str] = []
        self.answer = True
        """Whether submitted requests are answered."""
        self.outbox: list[SupervisorToProcess] = []
        self.results: list[RequestOutput] = []
        """Outputs to send to the gateway that sent the last message."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _bind(self, address: str) -> zmq.Socket[bytes]:
        bound = self.context.socket(zmq.ROUTER)
        configure_socket(bound)
        bound.bind(address)
        return bound

    def __enter__(self) -> Self:
        self._thread.start()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gllm.gateway"],
            env={**os.environ, **self.config.to_environment()},
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._closing.set()
        self._thread.join(5)
        self.context.destroy(linger=0)
        self.run_dir.cleanup()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self.control, zmq.POLLIN)
        poller.register(self.engine, zmq.POLLIN)
        status, requests = decoder(ProcessStatus), decoder(GatewayToEngine)
        gateway = b""
        while not self._closing.is_set():
            ready = dict(poller.poll(20))
            while self.outbox and gateway:
                self.control.send_multipart([gateway, encode(self.outbox.pop(0))])
            while self.results:
                outputs = RequestOutputs([self.results.pop(0)], EngineStats(step=2))
                self.engine.send_multipart([self.peer, encode(outputs)])
            if self.control in ready:
                gateway, payload = self.control.recv_multipart()
                said: ProcessStatus = status.decode(payload)
                self.states.append(said.state)
                self.details.append(said.detail)
                if said.state == "starting" and len(self.states) == 1:
                    self.outbox.append(EngineUp(epoch=1))
            if self.engine in ready:
                self.peer, payload = self.engine.recv_multipart()
                self._serve(self.peer, requests.decode(payload))

    def _serve(self, peer: bytes, message: GatewayToEngine) -> None:
        if isinstance(message, Connect):
            hello = Hello(epoch=1, max_model_len=256, num_pages=16, page_size=16, max_num_seqs=4)
            self.engine.send_multipart([peer, encode(hello)])
        elif isinstance(message, Abort):
            self.aborted += message.request_ids
        elif isinstance(message, Submit):
            self.submitted.append(message)
            ended = self.answer
            output = RequestOutput(
                request_id=message.request_id,
                token_ids=[*b"Hi", EOS] if ended else [*b"Hi"],
                finish_reason="stop" if ended else None,
                stop_token_id=EOS if ended else None,
            )
            self.engine.send_multipart([peer, encode(RequestOutputs([output], EngineStats(step=1)))])

    def until_ready(self) -> None:
        wait_until(lambda: "ready" in self.states, 30)


@pytest.fixture(scope="module")
def group(folder: Path) -> Iterator[Group]:
    with Group(folder) as running:
        running.until_ready()
        yield running


def test_serves(group: Group) -> None:
    answer = httpx.post(f"{group.url}/v1/completions", json=BODY)
    assert answer.json()["choices"][0]["text"] == "Hi"
    assert answer.json()["model"] == Path(group.config.engine.model).name
    assert group.states == ["starting", "ready"]
    sampling = group.submitted[-1].sampling
    assert (sampling.temperature, sampling.top_k) == (0.7, 9), "defaults from generation_config.json"
    messages = [{"role": "user", "content": "a"}]
    answer = httpx.post(f"{group.url}/v1/chat/completions", json={"messages": messages})
    assert answer.json()["choices"][0]["message"]["content"] == "Hi"
    assert bytes(group.submitted[-1].token_ids) == b"<user>a\n<assistant>"


def test_real_grammars(group: Group) -> None:
    body = {**BODY, "guided_regex": "a+b"}
    assert httpx.post(f"{group.url}/v1/completions", json=body, timeout=60).status_code == 200
    assert group.submitted[-1].sampling.grammar is not None
    refused = httpx.post(f"{group.url}/v1/completions", json={**BODY, "guided_regex": "a("}, timeout=60)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "guided_regex"


def test_disconnect_reaches_the_engine(group: Group) -> None:
    group.answer = False
    group.aborted.clear()
    with httpx.stream("POST", f"{group.url}/v1/completions", json={**BODY, "stream": True}) as answer:
        next(answer.iter_lines())
    wait_until(lambda: group.aborted == [group.submitted[-1].request_id])
    group.answer = True


def test_port_in_use(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with Group(folder, port=taken.getsockname()[1]) as group:
            _, errors = group.process.communicate(timeout=30)
            assert group.process.returncode == 1
            assert errors == ""  # the supervisor prints it
            wait_until(lambda: group.states[-1:] == ["failed"])
            assert f"cannot listen on 127.0.0.1:{group.port}: Address already in use" in group.details[-1]


def test_bad_model(tmp_path: Path) -> None:
    with Group(tmp_path / "missing") as group:
        _, errors = group.process.communicate(timeout=30)
        assert group.process.returncode == 1
        assert errors == ""
        wait_until(lambda: group.states[-1:] == ["failed"])
        assert "does not exist" in group.details[-1]


def post_in_background(url: str, stream: bool) -> tuple[threading.Thread, list[httpx.Response]]:
    answers: list[httpx.Response] = []

    def send() -> None:
        answers.append(httpx.post(f"{url}/v1/completions", json={**BODY, "stream": stream}, timeout=30))

    thread = threading.Thread(target=send)
    thread.start()
    return thread, answers


def test_ready_shows_the_share_of_loaded_weights(folder: Path) -> None:
    with Group(folder) as group:
        group.until_ready()
        assert httpx.get(f"{group.url}/ready").json() == {"status": "ok"}
        group.outbox += [EngineDown(epoch=1, reason="worker-0 was killed by SIGKILL"), Loading(0.4567)]
        wait_until(lambda: httpx.get(f"{group.url}/ready").json().get("loaded") == 0.457)
        answer = httpx.get(f"{group.url}/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        assert "loaded" not in httpx.get(f"{group.url}/health").json()
        group.outbox.append(EngineDown(epoch=2, reason="again"))
        wait_until(lambda: "loaded" not in httpx.get(f"{group.url}/ready").json())


def test_engine_down_then_drain(folder: Path) -> None:
    """The engine dies during a stream. Then SIGTERM without live requests ends the process with status 0."""
    with Group(folder) as group:
        group.until_ready()
        group.answer = False
        thread, answers = post_in_background(group.url, True)
        wait_until(lambda: len(group.submitted) == 1)
        group.outbox.append(EngineDown(epoch=1, reason="worker-0 was killed by SIGKILL"))
        thread.join(10)
        assert "worker-0 was killed by SIGKILL" in answers[0].text
        assert "[DONE]" not in answers[0].text
        health = httpx.get(f"{group.url}/health")
        assert health.status_code == 503
        assert "worker-0" in health.json()["reason"]
        group.answer = True
        group.outbox.append(EngineUp(epoch=1))
        wait_until(lambda: group.states[-1] == "ready")
        assert httpx.post(f"{group.url}/v1/completions", json=BODY).status_code == 200
        group.process.send_signal(signal.SIGTERM)
        assert group.process.wait(10) == 0
        wait_until(lambda: group.states[-1] == "draining")


@pytest.mark.parametrize("how", ["finish", "timeout", "second signal"])
def test_drain(folder: Path, how: str) -> None:
    with Group(folder) as group:
        group.until_ready()
        group.answer = False
        thread, answers = post_in_background(group.url, False)
        wait_until(lambda: len(group.submitted) == 1)
        if how == "timeout":
            group.outbox.append(Drain(timeout=0.2))
        else:
            group.process.send_signal(signal.SIGTERM)
            wait_until(lambda: httpx.get(f"{group.url}/ready").status_code == 503)
            refused = httpx.post(f"{group.url}/v1/completions", json=BODY)
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
        if how == "finish":
            rest = RequestOutput(
                request_id=group.submitted[0].request_id, token_ids=[EOS], finish_reason="stop", stop_token_id=EOS
            )
            group.results.append(rest)
        elif how == "second signal":
            group.process.send_signal(signal.SIGTERM)
        assert group.process.wait(10) == 0
        thread.join(10)
        if how == "finish":
            assert answers[0].json()["choices"][0]["text"] == "Hi"
        else:
            assert answers[0].status_code == 503
            assert "shutting down" in answers[0].json()["error"]["message"]


def test_a_drain_serves_old_and_new_connections(folder: Path) -> None:
    """From SIGTERM on: old connections are served, new ones for the delay, and the process ends by itself."""
    with Group(folder, drain_delay=1.5) as group, httpx.Client() as kept, httpx.Client() as idle:
        group.until_ready()
        for client in (kept, idle):
            assert client.post(f"{group.url}/v1/completions", json=BODY).status_code == 200
        group.process.send_signal(signal.SIGTERM)
        wait_until(lambda: group.states[-1] == "draining")
        began = time.monotonic()
        for client in (kept, httpx):
            answer = client.post(f"{group.url}/v1/completions", json=BODY)  # type: ignore[attr-defined]
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert httpx.get(f"{group.url}/ready").status_code == 503
        assert group.process.wait(10) == 0
        assert time.monotonic() - began > 1.0


def test_requests_wait_while_the_engine_is_replaced(folder: Path) -> None:
    """/health stays 200, /ready does not; the stream and a new request go to the next engine."""
    with Group(folder) as group:
        group.until_ready()
        group.answer = False
        running, answers = post_in_background(group.url, True)
        wait_until(lambda: len(group.submitted) == 1)
        group.outbox.append(EngineDown(epoch=1, reason="worker-0 was killed by SIGKILL", recovery_seconds=60.0))
        wait_until(lambda: httpx.get(f"{group.url}/ready").status_code == 503)
        assert "worker-0" in httpx.get(f"{group.url}/ready").json()["reason"]
        assert httpx.get(f"{group.url}/ready?recovering=true").status_code == 200
        assert httpx.get(f"{group.url}/health").status_code == 200
        waiting, later = post_in_background(group.url, False)
        time.sleep(0.3)
        assert len(group.submitted) == 1
        group.answer = True
        group.outbox.append(EngineUp(epoch=1))
        running.join(10)
        waiting.join(10)
        resubmitted = group.submitted[1]
        assert resubmitted.request_id == f"{group.submitted[0].request_id}~2"
        assert resubmitted.token_ids == [*group.submitted[0].token_ids, *b"Hi"]
        assert resubmitted.num_generated == 2
        assert resubmitted.sampling.seed is not None
        assert resubmitted.sampling.seed == group.submitted[0].sampling.seed
        assert answers[0].text.rstrip().endswith("[DONE]")
        assert later[0].json()["choices"][0]["text"] == "Hi"
        assert httpx.get(f"{group.url}/ready").status_code == 200


def test_waiting_requests_fail_when_no_engine_comes_back(folder: Path) -> None:
    with Group(folder) as group:
        group.until_ready()
        group.answer = False
        running, answers = post_in_background(group.url, True)
        wait_until(lambda: len(group.submitted) == 1)
        group.outbox.append(EngineDown(epoch=1, reason="killed", recovery_seconds=0.3))
        wait_until(lambda: httpx.get(f"{group.url}/health").status_code == 503, 5)
        group.outbox.append(EngineDown(epoch=1, reason="it did not come back"))
        running.join(10)
        assert "it did not come back" in answers[0].text
        assert httpx.post(f"{group.url}/v1/completions", json=BODY).status_code == 503
