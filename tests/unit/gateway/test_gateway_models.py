"""Several models behind one HTTP server, chosen by the field `model`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from gateway_fakes import EOS, FakeEngine, RunningServer, served_model
from prometheus_client.parser import text_string_to_metric_families

from gllm.config import Config, EngineConfig, GatewayConfig
from gllm.engine.client.engines import RemoteEngines
from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.shared.gateway import Gateway
from gllm.gateway.shared.gateways import Gateways
from gllm.gateway.shared.metric_families import MetricFamilies
from gllm.wire.curve import make_keys

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a", "max_tokens": 20},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/v1/responses": {"input": "a"},
    "/v1/messages": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 20},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "a"}]},
    "/v1/responses/input_tokens": {"input": "a"},
    "/generate": {"text": "a"},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [97]},
}


class Pair:
    """Two models: cat, also called kitten, answers "meow" within 512 tokens; dog answers "woof" within 64."""

    def __init__(self) -> None:
        self.engines = {"cat": FakeEngine(512), "dog": FakeEngine(64, max_num_seqs=1)}
        families = MetricFamilies()
        aliases = {"cat": ("kitten",), "dog": ()}
        gateways = [
            Gateway(
                Config(
                    engine=EngineConfig(model=f"/models/{name}"),
                    gateway=GatewayConfig(port=0, max_queued_requests=0 if name == "dog" else 10),
                ),
                replace(served_model(), name=name, aliases=aliases[name]),
                engine,
                families=families,
            )
            for name, engine in self.engines.items()
        ]
        self.gateways = Gateways(gateways)
        self.server = RunningServer(self.gateways, self.engines["cat"])
        self.reset()

    def reset(self) -> None:
        for engine, text in zip(self.engines.values(), (b"meow", b"woof"), strict=True):
            engine.reset()
            engine.reply = lambda prompt, sampling, text=text: [*text, EOS]  # type: ignore[misc]

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(self.server.url + path, json=BODIES.get(path, {}) | body, timeout=10)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.server.url + path, timeout=10)


@pytest.fixture(scope="module")
def running() -> Iterator[Pair]:
    pair = Pair()
    with pair.server:
        yield pair


@pytest.fixture
def pair(running: Pair) -> Pair:
    running.reset()
    return running


@pytest.mark.parametrize(("name", "text"), [("cat", "meow"), ("kitten", "meow"), ("dog", "woof")])
def test_the_field_model_chooses(pair: Pair, name: str, text: str) -> None:
    answer = pair.post("/v1/completions", model=name).json()
    assert answer["choices"][0]["text"] == text
    assert answer["model"] == {"kitten": "cat"}.get(name, name)
    chat = pair.post("/v1/chat/completions", model=name).json()
    assert chat["choices"][0]["message"]["content"] == text
    assert pair.post("/v1/messages", model=name).json()["content"][0]["text"] == text
    assert pair.post("/v1/responses", model=name).json()["output"][0]["content"][0]["text"] == text
    assert pair.post("/generate", model=name).json()["text"] == text


@pytest.mark.parametrize("path", BODIES)
def test_an_unknown_model_is_404_and_a_missing_one_400(pair: Pair, path: str) -> None:
    unknown = pair.post(path, model="fox")
    assert unknown.status_code == 404, unknown.text
    assert "The model 'fox' does not exist; this server has 'cat', 'dog'." in unknown.text
    if path.startswith("/v1/c"):
        assert unknown.json()["error"]["code"] == "model_not_found"
    missing = pair.post(path)
    assert missing.status_code == 400, missing.text
    assert "model" in missing.text
    assert pair.post(path, model="dog").status_code == 200
    assert not any(engine.live for engine in pair.engines.values())


def test_all_models_are_listed_with_their_limits(pair: Pair) -> None:
    listed = pair.get("/v1/models").json()
    assert [(one["id"], one["root"], one["max_model_len"]) for one in listed["data"]] == [
        ("cat", "cat", 512),
        ("kitten", "cat", 512),
        ("dog", "dog", 64),
    ]
    assert pair.get("/v1/models/dog").json()["max_model_len"] == 64
    assert pair.get("/v1/models/fox").json()["error"]["code"] == "model_not_found"
    long = pair.post("/v1/completions", model="dog", prompt="a" * 100)
    assert long.status_code == 400
    assert "64" in long.text
    assert pair.post("/v1/completions", model="cat", prompt="a" * 100).status_code == 200
    assert pair.get("/tokenizer_info?model=dog").json()["model_max_length"] == 64
    assert pair.get("/model_info").json()["model_path"] == "/models/cat"
    assert pair.get("/model_info?model=dog").json()["model_path"] == "/models/dog"


def test_each_model_has_its_own_queue(pair: Pair) -> None:
    dog = pair.engines["dog"]
    dog.hold_at = 1
    with httpx.stream(
        "POST", pair.server.url + "/v1/completions", json={"model": "dog", "prompt": "a", "stream": True}, timeout=10
    ) as held:
        lines = held.iter_lines()
        next(lines)
        assert pair.post("/v1/completions", model="dog").status_code == 429
        assert pair.post("/v1/completions", model="cat").status_code == 200
        assert pair.get("/load").json()["server_load"] == 1
        dog.hold_at = None
        assert list(lines)[-2] == "data: [DONE]"


def test_one_model_without_an_engine_leaves_the_other_ready(pair: Pair) -> None:
    pair.engines["dog"].hello = None
    assert pair.get("/ready").status_code == 200
    assert pair.post("/v1/completions", model="dog").status_code == 503
    assert pair.post("/v1/completions", model="cat").status_code == 200
    pair.engines["cat"].hello = None
    reason = pair.get("/ready").json()["reason"]
    assert "cat: " in reason
    assert "dog: " in reason


def test_series_have_the_name_of_their_model(pair: Pair) -> None:
    before = series(pair)
    for name in ("cat", "dog", "dog"):
        pair.post("/v1/completions", model=name)
    after = series(pair)
    assert {name: after[name] - before.get(name, 0) for name in ("cat", "dog")} == {"cat": 1, "dog": 2}


def series(pair: Pair) -> dict[str, float]:
    """Choices that ended at a stop token, by model."""
    families = text_string_to_metric_families(pair.get("/metrics").text)
    (family,) = (one for one in families if one.name == "gllm:request_success")
    return {
        one.labels["model_name"]: one.value
        for one in family.samples
        if one.name.endswith("_total") and one.labels["finished_reason"] == "stop"
    }


def remote(name: str, families: MetricFamilies) -> Gateway:
    engines = RemoteEngines([("127.0.0.1", 1)], make_keys(), model="", wait_seconds=1.0)
    config = Config(engine=EngineConfig(model=name), gateway=GatewayConfig(engines=(("127.0.0.1", 1),)))
    return Gateway(config, replace(served_model(), name=name), engines, families=families)


def test_a_gateway_that_starts_waits_for_models_of_another_version() -> None:
    """In a rollout the old gateways stay until the new ones can serve every model that has engines."""
    families = MetricFamilies()
    cat, dog = remote("cat", families), remote("dog", families)
    gateways = Gateways([cat, dog])
    address = ("127.0.0.1", 1)
    hello = FakeEngine().up

    def serves(gateway: Gateway) -> None:
        link: Any = SimpleNamespace(hello=hello, last_message_time=0.0, sent={})
        assert isinstance(gateway.engine, RemoteEngines)
        gateway.engine._links[address] = link
        gateway.engine.limits = hello

    assert isinstance(cat.engine, RemoteEngines)
    assert isinstance(dog.engine, RemoteEngines)
    for engines in (cat.engine, dog.engine):
        engines._looked = True
    serves(cat)
    dog.engine._unusable.add(address)
    assert "dog: " in str(gateways.not_ready())
    dog.engine._unusable.clear()
    assert gateways.not_ready() is None, "dog has no engines at all, and nothing is gained by waiting"
    dog.engine._unusable.add(address)
    assert gateways.not_ready() is None, "later, one model does not take the other with it"
    states = gateways.states(recovering=False)
    assert (states["cat"]["ready"], states["dog"]["ready"]) == (True, False)
    assert "no engine serves" in str(states["dog"]["reason"])
    text = cat.metrics.render()[0].decode()
    assert 'gllm:gateway_resubmitted_total{model_name="dog"} 0.0' in text
    names = [family.name for family in text_string_to_metric_families(text)]
    assert len(names) == len(set(names)), "no family is written twice"
    with pytest.raises(ApiError, match="does not exist"):
        gateways.of("fox")
    assert gateways.shown(None) is cat
    gateways.drain()
    assert gateways.not_ready() == "cat: draining; dog: draining"
    for one in gateways:
        one.model.close()


def test_a_config_with_several_models_survives_the_environment() -> None:
    other = Config(engine=EngineConfig(model="b"), gateway=GatewayConfig(keys_file="k"))
    config = Config(engine=EngineConfig(model="a"), others=(other,))
    (text,) = config.to_environment().values()
    assert msgspec.json.decode(text, type=Config) == config
