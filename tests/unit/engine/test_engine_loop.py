"""The engine's loop and its client over real sockets, with a fake worker in a thread."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from engine_fakes import EOS, VOCAB, generate, make_sequence
from engine_harness import MODEL, Engine, WorkerThread, connected, converse, settings, until

from gllm.config import Config, EngineConfig
from gllm.engine.client.client import EngineClient
from gllm.engine.client.resubmit import RequestRecord
from gllm.engine.client.stream import EngineError, OutputStream, merge
from gllm.engine.workers import context_length, pool_size
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import (
    Configure,
    RequestOutput,
    Stop,
    Submit,
    TokenLogprob,
    WorkerFailed,
)
from gllm.wire.transport import encode


def test_requests_are_served_together(run_dir: str) -> None:
    config = settings(run_dir)
    engine, worker = Engine(config), WorkerThread(config)

    async def one(client: EngineClient, number: int) -> None:
        prompt = [number, 1, 2, number]
        sampling = SamplingParams(max_tokens=12, logprobs=0)
        outputs = [output async for output in client.generate(f"r{number}", prompt, sampling)]
        received = [token for output in outputs for token in output.token_ids]
        assert received == generate(prompt, make_sequence("", prompt, max_tokens=12).sampling, 128)
        assert [entry.token_id for output in outputs for entry in output.logprobs or []] == received
        assert outputs[-1].finish_reason in ("stop", "length")

    async def talk(client: EngineClient) -> None:
        assert client.hello is not None
        assert (client.hello.max_model_len, client.hello.num_pages, client.hello.epoch) == (128, 32, 2)
        await asyncio.gather(*(one(client, number) for number in range(10)))
        assert client.num_live == 0

    converse(config, talk)
    engine.stop()
    assert worker.stopped.wait(10), "on SIGTERM the engine stops the workers"
    assert [state for state, _ in engine.states] == ["loading", "ready"]
    assert worker.configured == Configure(32, 128)
    assert len({new.sampling.seed for scheduled in worker.steps for new in scheduled.new}) == 10


def test_a_gateway_may_connect_before_the_engine_exists(run_dir: str) -> None:
    config = settings(run_dir)

    async def start() -> Engine:
        await asyncio.sleep(0.1)
        engine = Engine(config)
        WorkerThread(config, start_after=0.2)
        return engine

    async def main() -> Engine:
        starting = asyncio.create_task(start())
        async with connected(config) as client:
            assert client.hello is not None
            assert client.hello.epoch == 2
        return await starting

    asyncio.run(main()).stop()


def test_an_abort_frees_the_pages_within_a_step(run_dir: str) -> None:
    config = settings(run_dir, enable_prefix_caching=False)
    engine, worker = Engine(config), WorkerThread(config, held=True)

    async def talk(client: EngineClient) -> None:
        stream = client.generate("a", list(range(40)), SamplingParams(max_tokens=50, ignore_eos=True))
        await until(lambda: len(worker.steps) == 2)
        await stream.aclose()
        assert client.num_live == 0
        other = client.generate("b", [1], SamplingParams(max_tokens=1))
        # The engine gets both messages before the first step's result.
        await until(lambda: engine.scheduler.stats().num_running == 0 and engine.scheduler.stats().num_waiting == 1)
        worker.release()
        await until(lambda: len(worker.steps) == 3)
        assert worker.steps[2].freed == worker.steps[0].slots
        worker.release()
        worker.release()
        [output] = [output async for output in other]
        assert output.finish_reason in ("length", "stop")
        assert client.stats.kv_usage == 0.0
        assert [output async for output in stream] == []

    converse(config, talk)
    engine.stop()


def test_a_cancelled_consumer_aborts(run_dir: str) -> None:
    config = settings(run_dir)
    engine, worker = Engine(config), WorkerThread(config, held=True)

    async def talk(client: EngineClient) -> None:
        stream = client.generate("a", [1, 2], SamplingParams(max_tokens=50, ignore_eos=True))
        task = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)  # the stream would not notice the cancellation of a task that never began
        await until(lambda: len(worker.steps) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.num_live == 0
        await until(lambda: engine.scheduler.stats().num_running == 0)
        worker.release()
        worker.release()
        await until(lambda: client.stats.num_inflight == 0 and client.stats.step == 2)
        assert client.stats.num_running == 0

    converse(config, talk)
    engine.stop()


def test_a_slow_consumer_gets_outputs_merged(run_dir: str) -> None:
    config = settings(run_dir)
    engine = Engine(config)
    WorkerThread(config)

    async def talk(client: EngineClient) -> None:
        slow = client.generate("a", [1, 2], SamplingParams(max_tokens=20, ignore_eos=True))
        await until(lambda: client.num_live == 0)
        [output] = [output async for output in slow]
        assert len(output.token_ids) == 20
        assert output.finish_reason == "length"

    converse(config, talk)
    engine.stop()


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ([], SamplingParams(), "empty"),
        ([1] * 129, SamplingParams(), "129 tokens"),
        ([1] * 128, SamplingParams(), "room for the answer"),
        ([1, VOCAB], SamplingParams(), "vocabulary of 50"),
        ([-1], SamplingParams(), "vocabulary of 50"),
        ([1], SamplingParams(stop_token_ids=(1, VOCAB)), "stop_token_ids"),
        ([1], SamplingParams(logit_bias={VOCAB: 1.0}), "logit_bias"),
    ],
)
def test_bad_requests_are_refused_and_the_engine_lives(
    run_dir: str, prompt: list[int], sampling: SamplingParams, message: str
) -> None:
    config = settings(run_dir)
    engine = Engine(config)
    WorkerThread(config)

    async def talk(client: EngineClient) -> None:
        [output] = [output async for output in client.generate("bad", prompt, sampling)]
        assert output.finish_reason == "error"
        assert message in (output.error or "")
        assert [output async for output in client.generate("good", [1], SamplingParams(max_tokens=1))]

    converse(config, talk)
    engine.stop()


def test_the_engine_survives_frames_that_do_not_decode(run_dir: str) -> None:
    config = settings(run_dir)
    engine = Engine(config)
    WorkerThread(config)

    async def talk(client: EngineClient) -> None:
        submit = msgspec.to_builtins(Submit(request_id="odd", token_ids=[1], sampling=SamplingParams()))
        submit[3] = {"temperature": -1.0}
        assert client._link is not None
        socket = client._link._socket
        for payload in (b"", b"\xc1", encode(Stop()), msgspec.msgpack.encode(["Submit"])):
            await socket.send(payload)
        await socket.send_multipart([b"one", b"frame", b"too many"])
        record = RequestRecord(Submit(request_id="odd", token_ids=[1], sampling=SamplingParams()))
        stream = OutputStream("odd", record, lambda stream: None)
        client._link.sent["odd"] = stream
        client._link._ids[stream] = "odd"
        await socket.send(msgspec.msgpack.encode(submit))
        [output] = [output async for output in stream]
        assert output.finish_reason == "error"
        assert "temperature" in (output.error or "")
        assert [output async for output in client.generate("good", [1], SamplingParams(max_tokens=1))]

    converse(config, talk)
    engine.stop()


def test_an_idle_engine_sends_heartbeats(run_dir: str) -> None:
    config = settings(run_dir)
    engine = Engine(config)
    WorkerThread(config)

    async def talk(client: EngineClient) -> None:
        greeted = client.last_message_time
        await until(lambda: client.last_message_time > greeted)
        assert client.stats.seconds_since_progress == 0.0

    converse(config, talk)
    engine.stop()


def test_the_requests_of_a_gateway_that_left_are_aborted(run_dir: str) -> None:
    config = settings(run_dir)
    engine, worker = Engine(config), WorkerThread(config, held=True)

    async def talk(client: EngineClient) -> None:
        async with connected(config) as other:
            other.generate("left", [1, 2], SamplingParams(max_tokens=50, ignore_eos=True))
            await until(lambda: len(worker.steps) == 2)
        await until(lambda: client.stats.num_running == 0 and client.stats.step == 2)

    converse(config, talk)
    engine.stop()


def test_a_failed_worker_ends_the_engine_and_every_request(run_dir: str) -> None:
    config = settings(run_dir)
    engine, worker = Engine(config), WorkerThread(config, held=True)

    async def talk(client: EngineClient) -> None:
        stream = client.generate("a", [1, 2], SamplingParams(max_tokens=50))
        await until(lambda: len(worker.steps) == 2)
        worker.release(encode(WorkerFailed(0, "out of memory")))
        await until(lambda: engine.status is not None)
        client.engine_down("the worker died")
        assert client.hello is None
        with pytest.raises(EngineError, match="the worker died"):
            await anext(stream)
        with pytest.raises(EngineError, match="not ready"):
            client.generate("b", [1], SamplingParams())

    converse(config, talk)
    assert engine.join() == 1
    assert engine.states[-1] == ("failed", "worker-0 failed: out of memory")


@pytest.mark.parametrize("payload", [b"\xc1", encode(Stop())])
def test_an_invalid_message_of_a_worker_ends_the_engine(run_dir: str, payload: bytes) -> None:
    config = settings(run_dir)
    engine, worker = Engine(config), WorkerThread(config, held=True)

    async def talk(client: EngineClient) -> None:
        client.generate("a", [1, 2], SamplingParams(max_tokens=50))
        worker.release(payload)
        await until(lambda: engine.status is not None)

    converse(config, talk)
    assert engine.join() == 1


def test_a_live_id_cannot_be_used_twice(run_dir: str) -> None:
    config = settings(run_dir)
    engine, worker = Engine(config), WorkerThread(config, held=True)

    async def talk(client: EngineClient) -> None:
        client.generate("a", [1, 2], SamplingParams())
        with pytest.raises(ValueError, match="already live"):
            client.generate("a", [1, 2], SamplingParams())
        await until(lambda: len(worker.steps) > 0)  # two sockets: nothing else orders the two requests
        async with connected(config) as other:
            [output] = [output async for output in other.generate("a", [1], SamplingParams())]
            assert "already running" in (output.error or "")

    converse(config, talk)
    engine.stop()


def test_connecting_gives_up_in_time(run_dir: str) -> None:
    async def main() -> None:
        client = EngineClient(settings(run_dir))
        with pytest.raises(EngineError, match=r"not ready within 0\.2 seconds"):
            await client.connect(2, timeout=0.2)
        await client.close()

    asyncio.run(main())


def test_merged_outputs_lose_nothing() -> None:
    entry = TokenLogprob(token_id=1, logprob=-1.0, rank=1, top=[])
    first = RequestOutput(
        request_id="a", token_ids=[1], logprobs=[entry], prompt_logprobs=[None], num_cached_tokens=4, queue_time=1.0
    )
    then = RequestOutput(
        request_id="a", token_ids=[2], finish_reason="stop", stop_token_id=2, logprobs=[entry], num_preemptions=1
    )
    assert merge(first, then) == RequestOutput(
        request_id="a",
        token_ids=[1, 2],
        finish_reason="stop",
        stop_token_id=2,
        logprobs=[entry, entry],
        prompt_logprobs=[None],
        num_cached_tokens=4,
        queue_time=1.0,
        num_preemptions=1,
    )


def test_pool_and_context_follow_from_capacities() -> None:
    config = EngineConfig(model="", page_size=4)
    assert pool_size(config, [30, 20]) == 20
    assert pool_size(msgspec.structs.replace(config, num_pages=10), [30, 20]) == 10
    assert context_length(config, MODEL, 20) == 80
    assert context_length(config, MODEL, 200) == 128
    assert context_length(msgspec.structs.replace(config, max_model_len=50), MODEL, 20) == 50


@pytest.mark.parametrize(
    ("engine", "capacity", "message"),
    [
        ({"max_model_len": 100}, 20, "set it to 80 or less"),
        ({"max_model_len": 129}, 100, "set it to 128 or less"),
        ({"num_pages": 21}, 20, "room for 20"),
        ({}, 0, "kv_cache_memory"),
        ({"kv_threshold": 2.0}, 20, "kv_threshold"),
    ],
)
def test_settings_that_do_not_fit_end_the_start_with_one_line(
    run_dir: str, engine: dict[str, object], capacity: int, message: str
) -> None:
    config = settings(run_dir, **engine)
    loop = Engine(config)
    WorkerThread(config, num_pages=capacity)
    assert loop.join() == 1
    state, detail = loop.states[-1]
    assert state == "failed"
    assert message in detail
    assert "\n" not in detail


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "vocab_size": VOCAB,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "eos_token_id": EOS,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def start_process(config: Config) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **config.to_environment()}
    return subprocess.Popen([sys.executable, "-m", "gllm.engine"], env=environment, stderr=subprocess.PIPE)


@pytest.mark.parametrize("end", ["terminate", "worker failure"])
def test_the_process_serves_and_ends(run_dir: str, model_folder: Path, end: str) -> None:
    config = settings(run_dir, model=str(model_folder))
    process = start_process(config)
    worker = WorkerThread(config, held=True)

    async def talk(client: EngineClient) -> None:
        stream = client.generate("a", [1, 2], SamplingParams(max_tokens=1))
        worker.release()
        [output] = [output async for output in stream]
        assert output.finish_reason in ("length", "stop")
        if end == "terminate":
            process.send_signal(signal.SIGTERM)
        else:
            client.generate("b", [1, 2], SamplingParams(max_tokens=1))
            worker.release(encode(WorkerFailed(0, "gone")))

    converse(config, talk)
    _, log = process.communicate(timeout=20)
    if end == "terminate":
        assert process.returncode == 0
        assert worker.stopped.wait(10)
    else:
        assert process.returncode == 1
        assert b"worker-0 failed: gone" in log


def test_a_missing_model_ends_the_process(run_dir: str, tmp_path: Path) -> None:
    process = start_process(settings(run_dir, model=str(tmp_path / "nowhere")))
    process.communicate(timeout=20)
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("module", "absent"),
    [("gllm.engine.loop", "asyncio"), ("gllm.engine.loop", "torch"), ("gllm.engine.client.client", "torch")],
)
def test_the_engine_stays_light(module: str, absent: str) -> None:
    code = f"import sys, {module}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
