"""The sampler against a naive implementation of each definition."""

from __future__ import annotations

import ctypes
import itertools
import json
import queue
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from gllm.sampling_params import ParameterError, SamplingParams
from gllm.wire.messages import NewSequence
from gllm.worker.sampling import choose as choose_module
from gllm.worker.sampling import grammar as grammar_module
from gllm.worker.sampling.choose import choose, uniform
from gllm.worker.sampling.grammar import GrammarStore
from gllm.worker.sampling.sampler import Sampler, token_logprobs
from gllm.worker.sampling.state import SamplingState

VOCAB = 50


def _no_grammar() -> Any:
    raise AssertionError("no grammar was requested")


def _state(*params: SamplingParams, prompt: list[int] | None = None, output: list[int] | None = None) -> SamplingState:
    state = SamplingState(8, VOCAB, torch.device("cpu"), GrammarStore(_no_grammar, VOCAB))
    prompt, output = prompt or [1, 2, 3], output or []
    for slot, entry in enumerate(params):
        state.register(
            NewSequence(
                slot=slot,
                token_ids=prompt + output,
                num_prompt_tokens=len(prompt),
                num_computed_tokens=0,
                pages=[],
                sampling=entry,
            )
        )
    return state


def _naive(logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float, u: float) -> int:
    scaled = np.asarray(logits, np.float32) / np.float32(temperature)
    order = np.argsort(-scaled, kind="stable")
    p = np.exp(scaled[order] - scaled.max()).astype(np.float64)
    p /= p.sum()
    if top_k:
        p[top_k:] = 0
        p /= p.sum()
    before = np.concatenate([[0.0], np.cumsum(p)[:-1]])
    keep = (before < top_p) & (p >= min_p * p[0]) & (p > 0)
    keep[0] = True
    p = np.where(keep, p, 0)
    return int(order[np.searchsorted(np.cumsum(p), u * p.sum(), side="right")])


@given(
    st.lists(st.integers(-60, 60), min_size=5, max_size=30, unique=True),
    st.sampled_from([0.5, 1.0, 1.7]),
    st.sampled_from([0, 1, 3, 7, 100]),
    st.sampled_from([0.13, 0.61, 0.987, 1.0]),
    st.sampled_from([0.0, 0.0317, 0.283]),
    st.floats(0.001, 0.999),
    st.sampled_from([2, 4, 1024]),
)
@settings(max_examples=300)
def test_filtered_draw_is_the_definition(
    ints: list[int], temperature: float, top_k: int, top_p: float, min_p: float, u: float, candidates: int
) -> None:
    logits = [value / 7 for value in ints]
    original = choose_module.CANDIDATES
    choose_module.CANDIDATES = candidates
    try:
        token = choose(
            torch.tensor([logits]),
            torch.tensor([temperature]),
            torch.tensor([top_k]),
            torch.tensor([top_p]),
            torch.tensor([min_p]),
            torch.tensor([u], dtype=torch.float64),
            filtered=True,
            largest_k=top_k,
        )
    finally:
        choose_module.CANDIDATES = original
    expected = {_naive(logits, temperature, top_k, top_p, min_p, u + d) for d in (-1e-4, 0, 1e-4)}
    assert int(token) in expected


def test_unfiltered_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    n = 20_000
    u = uniform(np.full(n, 7, np.uint64), np.arange(n, dtype=np.uint64))
    ones = torch.ones(n)
    tokens = choose(logits.repeat(n, 1), ones, ones.long() * 0, ones, ones * 0, torch.from_numpy(u), filtered=False)
    share = torch.bincount(tokens, minlength=4) / n
    assert torch.allclose(share, torch.softmax(logits, 0), atol=0.015)


@pytest.mark.parametrize("filtered", [False, True])
def test_a_draw_at_the_very_end_has_mass(filtered: bool) -> None:
    logits = torch.tensor([[3.0, 1.0, -torch.inf, -torch.inf]])
    one = torch.ones(1)
    u = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert int(choose(logits, one, torch.tensor([0]), one, one * 0, u, filtered=filtered)) == 1


def test_uniform_repeats_and_spreads() -> None:
    seeds = np.repeat(np.arange(50, dtype=np.uint64), 200)
    positions = np.tile(np.arange(200, dtype=np.uint64), 50)
    u = uniform(seeds, positions)
    assert np.array_equal(u, uniform(seeds, positions))
    assert len(np.unique(u)) == len(u)
    assert (u >= 0).all()
    assert (u < 1).all()
    assert abs(u.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.03


def test_rows_do_not_depend_on_neighbours() -> None:
    torch.manual_seed(0)
    params = [
        SamplingParams(temperature=0.9, seed=5),
        SamplingParams(temperature=0.0, seed=1),
        SamplingParams(temperature=1.2, top_k=9, top_p=0.8, seed=6),
        SamplingParams(temperature=0.7, presence_penalty=1.5, repetition_penalty=1.3, seed=8),
    ]
    logits = torch.randn(4, VOCAB) * 3
    together = Sampler(_state(*params)).sample(logits.clone(), np.arange(4, dtype=np.int32)).tokens
    for slot in range(4):
        alone = Sampler(_state(*params)).sample(logits[slot : slot + 1].clone(), np.array([slot], np.int32)).tokens
        assert int(alone[0]) == int(together[slot])


def test_penalties_are_those_of_transformers_and_openai() -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, VOCAB)
    params = SamplingParams(
        temperature=0.0, repetition_penalty=1.7, presence_penalty=0.4, frequency_penalty=0.3, seed=0
    )
    state = _state(params, prompt=[4, 5, 4], output=[6, 6, 7])
    edited = logits.clone()
    Sampler(state).sample(edited, np.array([0], np.int32))
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[4, 5, 4, 6, 6, 7]]), logits.clone())
    expected[0, 6] -= 2 * 0.3 + 0.4
    expected[0, 7] -= 0.3 + 0.4
    assert torch.allclose(edited, expected, atol=1e-6)


def test_penalties_count_sampled_tokens() -> None:
    sampler = Sampler(_state(SamplingParams(temperature=0.0, frequency_penalty=2.0, seed=0)))
    logits = torch.zeros(1, VOCAB)
    logits[0, 9], logits[0, 11] = 3.0, 2.0
    slots = np.array([0], np.int32)
    tokens = [int(sampler.sample(logits.clone(), slots).tokens) for _ in range(3)]
    assert tokens == [9, 11, 9]


def test_bias_and_min_tokens() -> None:
    params = SamplingParams(
        temperature=0.0, logit_bias={3: 50.0, 4: 60.0}, min_tokens=2, stop_token_ids=(4,), max_tokens=9, seed=0
    )
    sampler = Sampler(_state(params))
    slots = np.array([0], np.int32)
    assert [int(sampler.sample(torch.zeros(1, VOCAB), slots).tokens) for _ in range(3)] == [3, 3, 4]


def _greedy(logits: torch.Tensor, sampler: Sampler) -> int:
    return int(sampler.sample(logits[None].clone(), np.array([0], np.int32)).tokens)


def test_allowed_token_ids() -> None:
    logits = torch.arange(VOCAB, dtype=torch.float32)
    sampler = Sampler(_state(SamplingParams(temperature=0.0, allowed_token_ids=(7, 3, 5), seed=0)))
    assert _greedy(logits, sampler) == 7
    drawn = Sampler(_state(SamplingParams(temperature=1.0, allowed_token_ids=(7, 3, 5), seed=0)))
    assert {_greedy(torch.zeros(VOCAB), drawn) for _ in range(40)} == {3, 5, 7}


@pytest.mark.parametrize("resumed", [False, True])
def test_bad_words(resumed: bool) -> None:
    """The last token of a run is masked after the others; resumed: as after a preemption, with the output known."""
    params = SamplingParams(temperature=0.0, bad_word_ids=((9,), (4, 5), (1, 2, 3), (6, 6, 3)), seed=0)
    script = [(9, 8), (4, 4), (5, 8), (5, 5), (1, 1), (2, 2), (3, 8), (6, 6), (6, 6), (3, 8), (1, 1), (3, 3)]
    sampler = Sampler(_state(params, prompt=[1, 2]))
    output: list[int] = []
    for wanted, expected in script:
        if resumed:
            sampler = Sampler(_state(params, prompt=[1, 2], output=output))
        logits = torch.zeros(VOCAB)
        logits[8] = 1
        logits[wanted] = 2
        output.append(_greedy(logits, sampler))
        assert output[-1] == expected, output


def test_masks_that_leave_nothing_fail_the_row() -> None:
    params = SamplingParams(temperature=0.0, allowed_token_ids=(4,), bad_word_ids=((4, 4),), seed=0)
    sampler = Sampler(_state(params))
    assert _greedy(torch.zeros(VOCAB), sampler) == 4
    assert "leave no token" in sampler.sample(torch.zeros(1, VOCAB), np.array([0], np.int32)).errors[0]
    with pytest.raises(ParameterError, match="none of the allowed_token_ids"):
        SamplingParams(allowed_token_ids=(4, 5), bad_word_ids=((4,), (5,)))


def test_the_end_of_a_grammar_overrides_min_tokens() -> None:
    class Ended:
        def allowed(self, eos_token_ids: tuple[int, ...]) -> Any:
            return np.isin(np.arange(VOCAB), eos_token_ids)

        def advance(self, tokens: list[int]) -> None:
            pass

    state = _state(SamplingParams(temperature=0.0, min_tokens=5, stop_token_ids=(4,), logit_bias={0: 1.0}, seed=0))
    state.grammar[0] = Ended()  # type: ignore[assignment]  # what is used of a grammar's state
    assert _greedy(torch.zeros(VOCAB), Sampler(state)) == 4


class FakeMatcher:
    """Allows its tokens in turn, then only the end; -1 is an error."""

    def __init__(self, tokens: list[int], at: int = 0) -> None:
        self.tokens = tokens
        self.at = at

    def deep_copy(self) -> FakeMatcher:
        return FakeMatcher(self.tokens, self.at)

    def is_error(self) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] < 0

    def get_error(self) -> str:
        return "lexer error: too many expressions constructed" if self.is_error() else ""

    def is_stopped(self) -> bool:
        return self.at >= len(self.tokens) or self.is_error()

    def consume_token(self, token: int) -> bool:
        self.at += 1
        return self.tokens[self.at - 1] == token

    def compute_bitmask(self) -> bytes:
        return b""

    def unsafe_compute_mask_ptr(self, pointer: int, size: int) -> None:
        bits = np.zeros(size * 8, np.uint8)
        bits[self.tokens[self.at]] = 1
        ctypes.memmove(pointer, np.packbits(bits, bitorder="little").tobytes(), size)


def _with_grammar(text: str, *, output: list[int] | None = None, **fields: Any) -> SamplingState:
    """A state whose slot 0 follows a grammar and whose slot 1 follows none. A grammar here is a list of tokens."""
    store = GrammarStore(lambda: lambda grammar: FakeMatcher(json.loads(grammar)), VOCAB)
    assert store.compile(1, text) == ""
    state = SamplingState(8, VOCAB, torch.device("cpu"), store)
    output = output or []
    params = SamplingParams(temperature=0.0, stop_token_ids=(4,), seed=0, max_tokens=99, **fields)
    state.register(
        NewSequence(
            slot=0,
            token_ids=[1, *output],
            num_prompt_tokens=1,
            num_computed_tokens=0,
            pages=[],
            sampling=params,
            grammar=1,
        )
    )
    state.register(
        NewSequence(
            slot=1,
            token_ids=[1],
            num_prompt_tokens=1,
            num_computed_tokens=0,
            pages=[],
            sampling=SamplingParams(temperature=0.0, seed=0),
        )
    )
    return state


def _rows(sampler: Sampler, count: int) -> tuple[list[list[int]], dict[int, str]]:
    logits = torch.zeros(2, VOCAB)
    logits[1, 17] = 1
    errors: dict[int, str] = {}
    tokens = []
    for _ in range(count):
        sampled = sampler.sample(logits.clone(), np.array([0, 1], np.int32))
        tokens.append(sampled.tokens.tolist())
        errors |= sampled.errors
    return tokens, errors


def test_a_grammar_is_followed_and_then_only_the_end_is_left() -> None:
    assert _rows(Sampler(_with_grammar("[9, 8]")), 3) == ([[9, 17], [8, 17], [4, 17]], {})
    assert _rows(Sampler(_with_grammar("[9, 8]", output=[9])), 2) == ([[8, 17], [4, 17]], {})
    assert _rows(Sampler(_with_grammar("[9]", min_tokens=5)), 2) == ([[9, 17], [4, 17]], {}), "nothing else fits"


def test_a_grammar_that_fails_late_fails_only_its_row() -> None:
    tokens, errors = _rows(Sampler(_with_grammar("[9, -1]")), 2)
    assert tokens[0] == [9, 17]
    assert tokens[1][1] == 17
    assert errors.keys() == {0}
    assert "too complex" in errors[0]


def test_an_output_that_does_not_fit_its_grammar_fails_only_its_row() -> None:
    tokens, errors = _rows(Sampler(_with_grammar("[9, 8]", output=[7])), 1)
    assert tokens[0][1] == 17
    assert errors == {0: "the grammar cannot be followed: a token does not fit it"}


def test_a_grammar_that_takes_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 0.5)
    monkeypatch.setattr(grammar_module.time, "thread_time", lambda: next(clock))
    tokens, errors = _rows(Sampler(_with_grammar("[9, 9, 9, 9, 9, 9, 9]")), 6)
    assert [row[0] for row in tokens[:4]] == [9] * 4
    assert "takes too long" in errors[0]
    assert all(row[1] == 17 for row in tokens)


def test_grammars_are_compiled_once_in_their_own_thread() -> None:
    may_go = threading.Event()
    made: list[str] = []

    def load() -> Any:
        def new(grammar: str) -> FakeMatcher:
            may_go.wait(10)
            made.append(grammar)
            return FakeMatcher(json.loads(grammar))

        return new

    store = GrammarStore(load, VOCAB)
    done: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    store.prepare(1, "[1]", lambda number, error: done.put((number, error)))
    store.prepare(2, "[-1]", lambda number, error: done.put((number, error)))
    store.prepare(3, "[3]", lambda number, error: done.put((number, error)))
    store.drop(3)
    assert done.empty(), "the caller does not wait"
    may_go.set()
    assert done.get(timeout=10) == (1, "")
    number, error = done.get(timeout=10)
    assert number == 2
    assert "too complex" in error
    assert done.get(timeout=10) == (3, "")
    for _ in range(3):
        store.start(1, [])
    assert made == ["[1]", "[-1]", "[3]"]
    for gone in (2, 3):
        with pytest.raises(KeyError):
            store.start(gone, [])


def test_a_model_without_grammars_says_so() -> None:
    def broken() -> Any:
        raise ValueError("no EOS")

    assert "cannot follow grammars" in GrammarStore(broken, VOCAB).compile(1, "[]")


def test_logprobs_come_from_unmodified_logits() -> None:
    torch.manual_seed(2)
    logits = torch.randn(1, VOCAB)
    params = SamplingParams(temperature=0.0, logit_bias={5: 100.0}, logprobs=3, seed=0)
    sampled = Sampler(_state(params)).sample(logits.clone(), np.array([0], np.int32))
    assert sampled.logprobs is not None
    entry = sampled.logprobs[0]
    expected = torch.log_softmax(logits[0], 0)
    assert entry is not None
    assert entry.token_id == 5
    assert entry.logprob == pytest.approx(float(expected[5]))
    assert entry.rank == 1 + int((expected > expected[5]).sum())
    assert [token for token, _ in entry.top] == expected.topk(3).indices.tolist()


def test_zero_top_logprobs_gives_the_token_only() -> None:
    [entry] = token_logprobs(torch.zeros(1, VOCAB), torch.tensor([4]), [0])
    assert entry.top == []
    assert entry.logprob == pytest.approx(-np.log(VOCAB))


def test_logprobs_of_requested_tokens() -> None:
    logits = torch.randn(3, VOCAB)
    expected = torch.log_softmax(logits, -1)
    chosen = expected.argmax(-1).tolist()
    asked = {"logprobs": 2, "temperature": 0.0, "seed": 0}
    other = next(token for token in (3, 6) if token != chosen[1])
    sampler = Sampler(
        _state(
            SamplingParams(**asked),
            SamplingParams(logprob_token_ids=(other, chosen[1], other), **asked),
            SamplingParams(logprob_token_ids=(other if other != chosen[2] else other + 1,), **asked),
        )
    )
    found = sampler.sample(logits.clone(), np.array([0, 1, 2], np.int32)).logprobs
    assert found is not None
    plain, inside, outside = found
    assert plain is not None
    assert inside is not None
    assert outside is not None
    assert [token for token, _ in plain.top] == expected[0].topk(2).indices.tolist()
    assert [token for token, _ in inside.top] == [other, chosen[1]]
    assert [token for token, _ in outside.top][1:] == [chosen[2]]
    for row, entry in enumerate((plain, inside, outside)):
        assert [value for _, value in entry.top] == pytest.approx([float(expected[row, t]) for t, _ in entry.top])


def test_the_log_of_a_grammar_that_fails_names_its_request(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> Any:
        return lambda grammar: 1 / 0

    done: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    GrammarStore(load, VOCAB).prepare(1, "[]", lambda number, error: done.put((number, error)), "the-id")
    assert "ZeroDivisionError" in done.get(timeout=10)[1]
    assert [record.request_id for record in caplog.records] == ["the-id"]  # type: ignore[attr-defined]
