"""Two models behind one `gllm gateway`: real processes, with keys of each model's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_tier import Group, Tier, metric, requests_of
from serving import Server, Stream, end_all, until

from fixtures.ports import free_port
from fixtures.tiny_models import write_hf
from gllm.wire.curve import make_keys

pytestmark = pytest.mark.timing

LONG = 1500
"""Tokens of streams that a failure interrupts."""


class Shared:
    """Model tiny with two groups, model other with one group that is not started yet, and a gateway for both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tiny, self.other = self._tier("tiny", 32768), self._tier("other", 4096)
        self.groups = [self.tiny.group(), self.tiny.group()]
        self.port = free_port()
        also = f"{self.other.model} --engines 127.0.0.1:{self.port} --keys-file {self.other.keys}"
        flags = ("--also", f"{also} --served-model-name other --engine-timeout 300 --wait-for-engine")
        self.gateway = self.tiny.gateway(*self.groups, flags=flags)
        assert self.gateway.wait_ready().startswith("gLLM serves tiny at ")

    def start_other(self) -> Group:
        return self.other.group(engine_port=self.port)

    def _tier(self, name: str, positions: int) -> Tier:
        folder = self.folder / name
        folder.mkdir()
        (folder / "keys").write_text(make_keys().text())
        model = write_hf("llama", folder / "model", max_position_embeddings=positions)
        return Tier(model, str(folder / "keys"), folder)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    made = Shared(tmp_path)
    yield made
    end_all([*made.tiny.started, *made.other.started])


def states(gateway: Server) -> dict[str, bool]:
    models = gateway.http.get("/ready").json()["models"]
    return {name: one["ready"] for name, one in models.items()}


def engines_up(gateway: Server) -> int:
    lines = gateway.http.get("/metrics").text.splitlines()
    return sum(line.startswith("gllm:gateway_engine_up{") and line.endswith(" 1.0") for line in lines)


def test_two_models_fail_and_wake_apart(shared: Shared) -> None:
    gateway = shared.gateway
    until(lambda: engines_up(gateway) == 2, 60)
    until(gateway.ready, 30)  # It has looked for the engines of the other model, too.
    assert states(gateway) == {"tiny": True, "other": False}
    assert [one["id"] for one in gateway.http.get("/v1/models").json()["data"]] == ["tiny", "other"]
    unknown = gateway.http.post("/v1/completions", json={"model": "third", "prompt": "a"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")

    # A request for the model without groups waits, and its idle time says so; the other model does not notice.
    waiting = Stream(gateway, model="other", prompt="number 9", max_tokens=LONG)
    until(lambda: gateway.http.get("/ready").json()["models"]["other"]["idle_seconds"] == 0.0, 30)
    assert gateway.text(prompt="a", max_tokens=4)
    assert gateway.http.get("/ready").json()["models"]["tiny"]["idle_seconds"] > 0.0
    other = shared.start_other()
    waiting.wait_pieces(1)
    assert states(gateway) == {"tiny": True, "other": True}
    assert requests_of(gateway, [other]) == [1]

    # A group of tiny is lost, and the only one of other: streams of tiny go on at once, that of other with a new group.
    streams = [Stream(gateway, prompt=f"number {n}", max_tokens=LONG) for n in range(4)]
    for stream in streams:
        stream.wait_pieces(1)
    assert requests_of(gateway, shared.groups) == [2, 2]
    shared.groups[0].kill_all()
    other.kill_all()
    texts = [stream.result() for stream in streams]
    assert waiting.live, "it waits for its own model's engines"
    assert metric(gateway, 'gllm:gateway_resubmitted_total{model_name="tiny"}') == "2.0"
    assert metric(gateway, 'gllm:gateway_resubmitted_total{model_name="other"}') == "1.0"
    shared.start_other()
    text = waiting.result()
    assert text == gateway.text(model="other", prompt="number 9", max_tokens=LONG)
    assert texts[0] == gateway.text(prompt="number 0", max_tokens=LONG)
    assert texts[0] != text
    assert "Traceback" not in gateway.err()
