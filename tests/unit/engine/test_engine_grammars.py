"""Requests with grammars: each text is compiled once; its requests wait outside the queue."""

from __future__ import annotations

from typing import Any

import pytest
from engine_fakes import FakeWorker, generate, make_sequence
from engine_harness import Engine, WorkerThread, converse, settings

from gllm.config import EngineConfig
from gllm.engine import grammars as grammars_module
from gllm.engine.client.client import EngineClient
from gllm.engine.grammars import Grammars
from gllm.engine.kv_pages import PagePool
from gllm.engine.scheduler import Scheduler
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import DropGrammar, GrammarReady, PrepareGrammar


class Bench:
    def __init__(self, **settings: Any) -> None:
        config = EngineConfig(model="", max_num_seqs=4, max_prefill_tokens=64, **settings)
        self.pool = PagePool(16, 4, prefix_caching=False)
        self.time = 0.0
        self.scheduler = Scheduler(config, self.pool, max_model_len=64, clock=lambda: self.time)
        self.worker = FakeWorker(16, 4, 4)

    def add(self, request_id: str, grammar: str | None, **options: Any) -> None:
        self.scheduler.add(make_sequence(request_id, [1, 2], max_model_len=64, grammar=grammar, **options))

    def step(self) -> list[tuple[str, int]]:
        """Run one step. Returns (grammar text, grammar number) of each registered request."""
        scheduled = self.scheduler.schedule()
        if scheduled is None:
            return []
        found = [(new.sampling.grammar, new.grammar) for new in scheduled.new]
        self.scheduler.process_result(self.worker.execute(scheduled))
        assert all(text is None for text, _ in found), "the text is not sent with each choice"
        return [number for _, number in found]  # type: ignore[misc]

    def messages(self) -> list[Any]:
        return self.scheduler.grammars.take_messages()


def test_a_request_waits_for_its_grammar_and_others_run() -> None:
    bench = Bench()
    bench.add("plain", None)
    for choice in range(3):
        bench.add(f"constrained-{choice}", "g")
    assert bench.messages() == [PrepareGrammar(1, "g")], "once for all choices"
    assert bench.step() == [0]
    stats = bench.scheduler.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_deferred) == (1, 3, 3)
    assert bench.scheduler.process_grammar(GrammarReady(1)) == {}
    assert bench.step() == [1, 1, 1]
    bench.add("later", "g")
    assert bench.messages() == [], "it is compiled already"
    assert bench.scheduler.stats().num_waiting == 1


def test_a_grammar_that_fails_ends_only_its_requests() -> None:
    bench = Bench()
    bench.add("plain", None)
    bench.add("a", "bad")
    bench.add("b", "bad")
    outputs = bench.scheduler.process_grammar(GrammarReady(1, "too complex"))
    assert [(o.request_id, o.error, o.invalid_request) for o in outputs[b"client"]] == [
        ("a", "too complex", True),
        ("b", "too complex", True),
    ]
    assert bench.step() == [0]
    bench.messages()
    bench.add("c", "bad")
    assert bench.messages() == [PrepareGrammar(2, "bad")], "a failure is not remembered"


def test_requests_may_leave_while_they_wait() -> None:
    bench = Bench()
    bench.add("a", "g")
    bench.add("b", "g")
    last = bench.scheduler.abort("a")
    assert last is not None
    assert last.finish_reason == "abort"
    bench.scheduler.abort("b")
    assert not bench.scheduler.has_work
    assert bench.scheduler.process_grammar(GrammarReady(1)) == {}
    assert bench.scheduler.schedule() is None
    assert bench.scheduler.process_grammar(GrammarReady(77)) == {}, "one that was dropped meanwhile"


def test_waiting_for_a_grammar_is_no_hang() -> None:
    bench = Bench()
    bench.add("a", "g")
    bench.time = 100.0
    assert bench.scheduler.stats().seconds_since_progress == 0
    bench.scheduler.process_grammar(GrammarReady(1))
    bench.time = 101.0
    assert bench.scheduler.stats().seconds_since_progress == 1


def test_idle_grammars_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars_module, "MAX_IDLE", 2)
    grammars = Grammars()
    for number, text in enumerate("abc", start=1):
        seq = make_sequence(text, [1], grammar=text)
        assert not grammars.claim(seq)
        grammars.compiled(number, failed=False)
        if text != "b":
            grammars.release(seq)
    held = make_sequence("again", [1], grammar="a")
    assert grammars.claim(held)
    grammars.take_messages()
    for number, text in enumerate("de", start=4):
        seq = make_sequence(text, [1], grammar=text)
        grammars.claim(seq)
        grammars.compiled(number, failed=False)
        grammars.release(seq)
    dropped = [message for message in grammars.take_messages() if isinstance(message, DropGrammar)]
    assert dropped == [DropGrammar(3)], "the longest idle; a and b are in use"


def test_over_the_sockets(run_dir: str) -> None:
    config = settings(run_dir)
    engine, worker = Engine(config), WorkerThread(config)

    async def talk(client: EngineClient) -> None:
        sampling = SamplingParams(max_tokens=6, grammar="g", ignore_eos=True)
        streams = [client.generate(f"r{n}", [n, 1], sampling) for n in range(3)]
        for n, stream in enumerate(streams):
            received = [token async for output in stream async for token in _each(output.token_ids)]
            assert received == generate([n, 1], make_sequence("", [n, 1], max_tokens=6, stop_token_ids=()).sampling, 99)
        bad = [output async for output in client.generate("bad", [1], SamplingParams(grammar="bad"))]
        assert (bad[-1].finish_reason, bad[-1].error, bad[-1].invalid_request) == ("error", "it is bad", True)

    async def _each(tokens: list[int]) -> Any:
        for token in tokens:
            yield token

    converse(config, talk)
    engine.stop()
    assert worker.prepared == ["g", "bad"]
