"""From Submit to a sequence."""

from __future__ import annotations

import msgspec
import pytest

from gllm.engine.client.resubmit import for_engine
from gllm.engine.gateways import last_output, make_sequence, refusal
from gllm.engine.sequence import Sequence
from gllm.models.config import ModelConfig, RopeConfig
from gllm.sampling_params import ParameterError, SamplingParams
from gllm.wire.messages import Submit

MODEL = ModelConfig(
    architecture="LlamaForCausalLM",
    hidden_size=8,
    intermediate_size=8,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=500,
    max_position=128,
    rms_norm_eps=1e-5,
    rope=RopeConfig(),
    tie_word_embeddings=True,
    attention_bias=False,
    eos_token_ids=(2, 7, 500),
)


def made(sampling: SamplingParams, *, salt: str = "", generated: list[int] | None = None) -> Sequence:
    submit = Submit(
        request_id="a",
        token_ids=[1, 2, 3, *(generated or ())],
        sampling=for_engine(sampling),
        priority=4,
        cache_salt=salt,
        num_generated=len(generated or ()),
    )
    assert refusal(submit, vocab_size=MODEL.vocab_size, max_model_len=128) is None
    return make_sequence(submit, MODEL, max_model_len=128, client=b"gateway", now=5.0)


def test_eos_joins_the_stop_tokens_unless_ignored() -> None:
    assert made(SamplingParams(stop_token_ids=(9, 7))).sampling.stop_token_ids == (2, 7, 9)
    assert made(SamplingParams(stop_token_ids=(9, 7), ignore_eos=True)).stop_ids == {9, 7}


def test_the_client_draws_a_seed_only_where_none_was_given() -> None:
    assert for_engine(SamplingParams(seed=-3)).seed == -3
    seeds = {for_engine(SamplingParams()).seed for _ in range(20)}
    assert len(seeds) == 20
    assert None not in seeds
    assert "seed" in (
        refusal(Submit(request_id="a", token_ids=[1], sampling=SamplingParams()), vocab_size=9, max_model_len=9) or ""
    )


def test_the_engine_does_not_get_stop_strings() -> None:
    assert for_engine(SamplingParams(seed=1, stop=("a" * 1_000_000,), min_tokens=2)) == SamplingParams(
        seed=1, min_tokens=2
    )


def test_tokens_of_an_earlier_engine_are_not_prompt() -> None:
    sampling = SamplingParams(max_tokens=10, min_tokens=4, prompt_logprobs=1, seed=1)
    seq = made(sampling, generated=[5, 6])
    assert (seq.num_prompt, seq.min_length, seq.max_length, len(seq.tokens)) == (3, 7, 13, 5)
    assert seq.prompt_scored, "the prompt's logprobs were sent with the first token"
    registration = seq.registration(0, [])
    assert (registration.num_prompt_tokens, registration.token_ids) == (3, [1, 2, 3, 5, 6])
    assert registration.sampling.prompt_logprobs is None
    assert last_output(seq) is None


@pytest.mark.parametrize(
    ("generated", "reason", "stop"),
    [
        ([5, 5, 5, 5], "length", None),
        ([5, 7], "stop", 7),
        ([7], None, None),
        ([5], None, None),
    ],
)
def test_a_request_that_was_complete_ends(generated: list[int], reason: str | None, stop: int | None) -> None:
    last = last_output(made(SamplingParams(max_tokens=4, min_tokens=2, seed=1), generated=generated))
    assert (last.finish_reason, last.stop_token_id) == (reason, stop) if last is not None else reason is None


def test_lengths_follow_from_the_request_and_the_context() -> None:
    seq = made(SamplingParams(max_tokens=10, min_tokens=4))
    assert (seq.num_prompt, seq.min_length, seq.max_length, seq.rank[0]) == (3, 7, 13, 4)
    assert made(SamplingParams(max_tokens=None)).max_length == 128
    assert made(SamplingParams(max_tokens=1000)).max_length == 128
    assert made(SamplingParams(max_tokens=0)).scoring_only


def test_a_salt_starts_another_chain() -> None:
    assert made(SamplingParams()).root != made(SamplingParams(), salt="tenant").root


def test_too_many_stop_tokens_with_eos_are_refused_by_name() -> None:
    with pytest.raises(ParameterError, match="stop_token_ids"):
        made(SamplingParams(stop_token_ids=tuple(range(100, 228))))


def test_the_worker_can_decode_its_messages() -> None:
    registration = made(SamplingParams(stop_token_ids=tuple(range(100, 226)))).registration(0, [])
    encoded = msgspec.msgpack.encode(registration)
    assert msgspec.msgpack.decode(encoded, type=type(registration)) == registration
