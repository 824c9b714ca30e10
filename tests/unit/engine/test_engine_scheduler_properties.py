"""Random workloads on a fake worker that checks each step: the invariants of docs/architecture.md."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from engine_fakes import EOS, VOCAB, FakeWorker, generate, make_sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm.config import POLICY_NAMES, EngineConfig, PolicyName
from gllm.engine.kv_pages import PagePool
from gllm.engine.policies.bound import prefill_room
from gllm.engine.scheduler import Scheduler
from gllm.engine.sequence import Sequence
from gllm.engine.time_model import Work
from gllm.wire.messages import RequestOutput, StageReport, StepResult


@dataclass(frozen=True)
class Setting:
    policy: PolicyName
    pp: int
    page_size: int
    num_pages: int
    max_num_seqs: int
    max_prefill_tokens: int
    min_prefill_tokens: int
    prefix_caching: bool
    ttft_target: float = 0.0
    tpot_target: float = 0.0
    token_seconds: tuple[float, ...] = (1e-4,)
    """Reported seconds per token, in turn; some are invalid."""


SETTINGS = st.builds(
    Setting,
    policy=st.sampled_from(POLICY_NAMES),
    pp=st.integers(1, 4),
    page_size=st.integers(1, 5),
    num_pages=st.integers(3, 20),
    max_num_seqs=st.integers(1, 8),
    max_prefill_tokens=st.integers(1, 40),
    min_prefill_tokens=st.integers(1, 16),
    prefix_caching=st.booleans(),
    ttft_target=st.sampled_from([0.0, 0.0, 1e-3, 60.0]),
    tpot_target=st.sampled_from([0.0, 0.0, 1e-5, 1e-3, 60.0]),
    token_seconds=st.lists(st.sampled_from([1e-5, 1e-4, 1e-4, 1e-2, 0.0, -1.0, 1e9]), min_size=1, max_size=5).map(
        tuple
    ),
)


@dataclass(frozen=True)
class Add:
    prompt_length: int
    shared_prefix: int
    max_tokens: int | None
    min_tokens: int
    priority: int
    salt: str
    ignore_eos: bool
    logprobs: bool
    prompt_logprobs: bool


@dataclass(frozen=True)
class Abort:
    index: int


@dataclass(frozen=True)
class Answer:
    """The result of the oldest step in flight arrives; one of its rows may have failed."""

    failed_row: int | None


@dataclass(frozen=True)
class Pass:
    """The stage before the last reports the first `steps` of the steps in flight, again or for the first time."""

    steps: int


Operation = Add | Abort | Answer | Pass
OPERATIONS = st.lists(
    st.one_of(
        st.builds(
            Add,
            prompt_length=st.integers(1, 40),
            shared_prefix=st.integers(0, 30),
            max_tokens=st.one_of(st.none(), st.integers(0, 20)),
            min_tokens=st.integers(0, 5),
            priority=st.integers(-1, 1),
            salt=st.sampled_from(["", "", "", "tenant"]),
            ignore_eos=st.booleans(),
            logprobs=st.booleans(),
            prompt_logprobs=st.sampled_from([False, False, True]),
        ),
        st.builds(Abort, index=st.integers(0, 30)),
        st.builds(Answer, failed_row=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 8))),
        st.builds(Answer, failed_row=st.none()),
        st.builds(Pass, steps=st.integers(0, 5)),
        st.builds(Pass, steps=st.just(5)),
        st.builds(
            Add,
            prompt_length=st.integers(1, 8),
            shared_prefix=st.integers(0, 8),
            max_tokens=st.integers(8, 30),
            min_tokens=st.just(0),
            priority=st.integers(-1, 1),
            salt=st.just(""),
            ignore_eos=st.just(True),
            logprobs=st.just(False),
            prompt_logprobs=st.just(False),
        ),
    ),
    max_size=50,
)


@dataclass
class InFlight:
    result: StepResult
    rows: list[Sequence]
    decodes: list[Sequence]
    passed: bool
    """Whether the scheduler knows that the step has reached the last stage."""


@dataclass
class Trial:
    """A scheduler, a worker and what each request has received."""

    setting: Setting
    added: dict[str, Sequence] = field(default_factory=dict)
    outputs: dict[str, list[RequestOutput]] = field(default_factory=dict)
    in_flight: deque[InFlight] = field(default_factory=deque)
    ahead: int = 0
    """While it drains: the number of steps that are reported before their results arrive."""

    def __post_init__(self) -> None:
        s = self.setting
        config = EngineConfig(
            model="",
            policy=s.policy,
            max_num_seqs=s.max_num_seqs,
            max_prefill_tokens=s.max_prefill_tokens,
            min_prefill_tokens=s.min_prefill_tokens,
            ttft_target=s.ttft_target,
            tpot_target=s.tpot_target,
        )
        self.pool = PagePool(s.num_pages, s.page_size, prefix_caching=s.prefix_caching)
        self.max_model_len = s.num_pages * s.page_size
        self.scheduler = Scheduler(config, self.pool, max_model_len=self.max_model_len, pp=s.pp, epoch=3)
        self.worker = FakeWorker(s.num_pages, s.page_size, s.max_num_seqs)

    def add(self, operation: Add) -> None:
        length = min(operation.prompt_length, self.max_model_len)
        shared = min(operation.shared_prefix, length)
        number = len(self.added)
        prompt = list(range(shared)) + [(number * 13 + i) % VOCAB for i in range(length - shared)]
        most = operation.max_tokens
        seq = make_sequence(
            f"request-{number}",
            prompt,
            max_model_len=self.max_model_len,
            priority=operation.priority,
            salt=operation.salt,
            max_tokens=most,
            min_tokens=operation.min_tokens if most is None else min(operation.min_tokens, most),
            stop_token_ids=() if operation.ignore_eos else (EOS, EOS + 1, EOS + 2),
            logprobs=0 if operation.logprobs else None,
            prompt_logprobs=0 if operation.prompt_logprobs else None,
        )
        self.added[seq.request_id] = seq
        self.outputs[seq.request_id] = []
        self.scheduler.add(seq)

    def abort(self, index: int) -> None:
        request_id = f"request-{index}"
        live = request_id in self.scheduler
        output = self.scheduler.abort(request_id)
        assert (output is not None) == live
        if output is not None:
            self.outputs[request_id].append(output)

    def schedule(self) -> None:
        """Fill the pipeline. The worker runs a step at once; its result arrives later."""
        pp = self.setting.pp
        while (scheduled := self.scheduler.schedule()) is not None:
            assert scheduled.epoch == 3
            result = self.worker.execute(scheduled)
            rows = self.scheduler._in_flight.batches[-1].rows
            assert len(rows) == len(scheduled.slots)
            decodes = [seq for seq, slot in zip(rows, scheduled.slots, strict=True) if slot in self.worker.decode_slots]
            prefill = sum(scheduled.num_tokens) - len(decodes)
            assert prefill <= self.setting.max_prefill_tokens
            self.check_bound()
            before = [step for step in self.in_flight if not step.passed]
            waiting = {seq for step in before for seq in step.decodes}
            assert waiting.isdisjoint(decodes), "the first stage would wait for tokens that come late"
            assert len(before) < pp
            self.in_flight.append(InFlight(result, rows, decodes, passed=pp == 1))
            assert len(self.in_flight) <= pp + 1
        assert self.scheduler.num_in_flight == len(self.in_flight)
        if not self.in_flight:
            assert not self.scheduler.has_work, "live requests, and nothing is scheduled"

    def report(self, steps: int) -> None:
        for step in list(self.in_flight)[:steps]:
            stage = self.setting.pp - 2
            self.scheduler.observe(StageReport(epoch=3, step=step.result.step, stage=stage, started=0.0, elapsed=1e-3))
            step.passed = True

    def check_bound(self) -> None:
        """A micro-batch with decodes is within the bound on its time, or has no more than a floor of prefill."""
        scheduler = self.scheduler
        cost, work = scheduler._meter.times.cost, scheduler._in_flight.batches[-1].work
        if work.decode_rows:
            decodes = Work(0, work.decode_rows, 0.0, work.decode_context, work.decode_rows)
            room = prefill_room(scheduler._limits, cost.predict(decodes))
            # Rounding up to a token: of the floor, and of a sequence that has just got its slot.
            token = cost.chunk(self.max_model_len, 1, work.tokens) + cost.e
            assert cost.predict(work) - cost.predict(decodes) <= (room + 2 * token) * (1 + 1e-6)

    def answer(self, failed_row: int | None) -> None:
        if not self.in_flight:
            return
        step = self.in_flight.popleft()
        if failed_row is not None and failed_row < len(step.rows):
            step.result.errors = [(failed_row, "injected")]
        for stage in range(-1, self.setting.pp + 1):  # some from stages that do not exist
            number = step.result.step
            seconds = self.setting.token_seconds[number % len(self.setting.token_seconds)]
            elapsed = seconds * (5 + len(step.rows))
            self.scheduler.observe(
                StageReport(epoch=3 if stage != 1 else 2, step=number, stage=stage, started=0.0, elapsed=elapsed)
            )
        for client, outputs in self.scheduler.process_result(step.result).items():
            assert client == b"client"
            for output in outputs:
                self.outputs[output.request_id].append(output)
        stats = self.scheduler.stats()
        assert 0.0 <= stats.kv_usage <= 1.0
        assert stats.num_running + stats.num_waiting == len(self.scheduler._requests)
        assert stats.num_waiting_tokens >= 0
        assert len(stats.stages) == self.setting.pp
        assert sum(stats.microbatch_prefill.counts) == sum(stats.microbatch_decode.counts)

    def drain(self) -> None:
        for _ in range(20_000):
            if not self.in_flight:
                break
            self.report(self.ahead)
            self.schedule()
            self.answer(None)
            self.schedule()
        assert not self.scheduler.has_work

    def check_pool(self) -> None:
        """Without live requests no page is held, and all counts are zero."""
        running = self.scheduler._running
        assert self.pool.num_free == self.setting.num_pages
        assert sorted(running.free_slots) == list(range(self.setting.max_num_seqs))
        assert running.num_decoding == running.decode_context == 0
        assert not running.members
        assert not running.prefilling
        assert not running.ready
        queue = self.scheduler._queue
        assert len(queue) == queue.tokens == queue.pairs == 0

    def check_outputs(self) -> None:
        for request_id, seq in self.added.items():
            outputs = self.outputs[request_id]
            reasons = [output.finish_reason for output in outputs]
            assert reasons[-1] is not None, "every admitted request ends"
            assert all(reason is None for reason in reasons[:-1])
            prompt = seq.tokens[: seq.num_prompt]
            expected = generate(prompt, seq.sampling, self.max_model_len)
            received = [token for output in outputs for token in output.token_ids]
            assert received == expected[: len(received)]
            last = outputs[-1]
            if last.finish_reason in ("stop", "length"):
                assert received == expected
                stopped = bool(expected) and expected[-1] in seq.sampling.stop_token_ids
                stopped = stopped and len(expected) >= seq.sampling.min_tokens
                assert last.finish_reason == ("stop" if stopped else "length")
                assert last.stop_token_id == (expected[-1] if stopped else None)
            if seq.sampling.logprobs is not None:
                entries = [entry.token_id for output in outputs for entry in output.logprobs or []]
                assert entries == received
            if seq.sampling.prompt_logprobs is not None and (received or last.finish_reason == "length"):
                sent = [output.prompt_logprobs for output in outputs if output.prompt_logprobs is not None]
                assert len(sent) == 1
                assert [entry.token_id if entry else None for entry in sent[0]] == [None, *prompt[1:]]


@settings(max_examples=400)
@given(setting=SETTINGS, operations=OPERATIONS, ahead=st.integers(0, 5))
def test_any_workload_keeps_the_invariants(setting: Setting, ahead: int, operations: list[Operation]) -> None:
    trial = Trial(setting, ahead=ahead)
    for operation in operations:
        match operation:
            case Add():
                trial.add(operation)
            case Abort(index=index):
                trial.abort(index)
            case Answer(failed_row=failed_row):
                trial.answer(failed_row)
            case Pass(steps=steps):
                trial.report(steps)
        trial.schedule()
    trial.drain()
    trial.check_pool()
    trial.check_outputs()


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("pp", [1, 2, 4])
@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_many_requests_in_a_tiny_pool_is_served_with_preemptions(policy: PolicyName, pp: int, ahead: int) -> None:
    setting = Setting(
        policy=policy,
        pp=pp,
        page_size=4,
        num_pages=24,
        max_num_seqs=8,
        max_prefill_tokens=32,
        min_prefill_tokens=4,
        prefix_caching=True,
    )
    trial = Trial(setting, ahead=ahead)
    for number in range(30):
        trial.add(Add(5 + number % 17, number % 9, 30, 0, number % 2, "", True, False, number % 5 == 0))
    trial.schedule()
    trial.drain()
    trial.check_pool()
    trial.check_outputs()
    stats = trial.scheduler.stats()
    assert stats.num_preemptions > 0
    assert 0 < stats.prefix_cache_hits < stats.prefix_cache_queries
