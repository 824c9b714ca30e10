"""Grammars on a real server: a large one does not delay other streams; one that fails is its client's error."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving import Server, Stream, until

from fixtures.tiny_models import write_hf


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("grammars")
    server = Server(write_hf("llama", folder / "model", max_position_embeddings=32768), folder / "err")
    server.wait_ready()
    yield server
    server.end()


def heavy_schema(groups: int) -> dict[str, Any]:
    """Each further group multiplies the work by four; 5 groups take about a second."""

    def needs(name: str) -> dict[str, Any]:
        return {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}

    return {"allOf": [{"anyOf": [needs(f"p{group}{name}") for name in "abcd"]} for group in range(groups)]}


class Reader(threading.Thread):
    """Reads an endless stream until it is stopped, and records the time of each piece."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.moments: list[float] = []
        self.leave = threading.Event()
        self._url = f"http://127.0.0.1:{server.port}/v1/completions"
        self.start()

    def run(self) -> None:
        body = {"model": "tiny", "prompt": "a", "max_tokens": 30_000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", self._url, json=body, timeout=120) as response:
            for line in response.iter_lines():
                if line:
                    self.moments.append(time.monotonic())
                if self.leave.is_set():
                    return


def test_a_large_grammar_for_64_choices_does_not_stop_another_stream(server: Server) -> None:
    other = Reader(server)
    until(lambda: len(other.moments) > 20)
    began = time.monotonic()
    answer = server.complete(guided_json=heavy_schema(5), n=64, max_tokens=8, temperature=1, ignore_eos=False)
    ended = time.monotonic()
    other.leave.set()
    other.join(30)
    assert len(answer["choices"]) == 64
    times = [began, *(moment for moment in other.moments if began <= moment <= ended), ended]
    longest = max(later - earlier for earlier, later in itertools.pairwise(times))
    # Compiled once in a step it would be a second, 64 times more than half a minute.
    assert longest < 5, f"the other stream stood for {longest:.1f} s of {ended - began:.1f} s"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guided_regex", "a{1000000}"),
        ("guided_json", {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(2000)}}),
    ],
)
def test_a_grammar_that_fails_late_is_the_clients_error(server: Server, field: str, value: Any, stream: bool) -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 64, field: value, "stream": stream}
    answer = server.http.post("/v1/completions", json=body)
    text = answer.text
    if answer.status_code == 200:  # a stream that had begun
        assert stream
        text = next(line for line in text.splitlines() if '"error"' in line).removeprefix("data: ")
    else:
        assert answer.status_code == 400
    error = json.loads(text)["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", field)
    assert "too complex" in error["message"]


def test_a_constrained_answer_continues_after_its_worker_is_lost(server: Server) -> None:
    regex = "([a-f]{3} ){400}end"
    stream = Stream(server, guided_regex=regex, max_tokens=4000, ignore_eos=False, temperature=1, seed=3)
    calm = Stream(server, guided_regex=regex, max_tokens=4000, ignore_eos=False, temperature=1, seed=3)
    stream.wait_pieces(30)
    os.kill(server.children()["worker-0"], signal.SIGKILL)
    assert stream.result() == calm.result()
    assert stream.text.endswith(" end")
    assert len(stream.text) == 4 * 400 + 3
