"""From a gateway's `Submit` to a sequence: what the engine refuses, and what it fills in."""

from __future__ import annotations

import msgspec

from gllm.engine.kv_pages import root_digest
from gllm.engine.sequence import Sequence
from gllm.models.config import ModelConfig
from gllm.wire.messages import RequestOutput, Submit


def refusal(submit: Submit, *, vocab_size: int, max_model_len: int) -> str | None:
    """Why this request cannot be served, for its client; None if it can."""
    length = len(submit.token_ids) - submit.num_generated
    if length <= 0 or submit.num_generated < 0:
        return "the prompt is empty: give at least one token"
    if submit.sampling.seed is None:
        return "the request has no seed: its client must draw one"
    if length > max_model_len:
        return f"the prompt has {length} tokens, and the model's context is {max_model_len}: shorten the prompt"
    if length == max_model_len and submit.sampling.max_tokens != 0:
        return (
            f"the prompt has {length} tokens and fills the model's context of {max_model_len}: "
            "shorten it to leave room for the answer"
        )
    if min(submit.token_ids) < 0 or max(submit.token_ids) >= vocab_size:
        return f"the prompt has a token id outside the model's vocabulary of {vocab_size}"
    for field, token_ids in (
        ("stop_token_ids", submit.sampling.stop_token_ids),
        ("logit_bias", submit.sampling.logit_bias),
        ("allowed_token_ids", submit.sampling.allowed_token_ids),
        ("logprob_token_ids", submit.sampling.logprob_token_ids),
        ("bad_word_ids", [token for run in submit.sampling.bad_word_ids for token in run]),
    ):
        if token_ids and max(token_ids) >= vocab_size:
            return f"{field} has a token id outside the model's vocabulary of {vocab_size}"
    return None


def make_sequence(submit: Submit, model: ModelConfig, *, max_model_len: int, client: bytes, now: float) -> Sequence:
    """A sequence for a request that `refusal` has nothing against.

    Its sampling parameters are in the wire form: the model's EOS tokens are among the stop tokens, so that the
    worker can mask all of these before min_tokens. Raises ParameterError when these make too long a list.
    """
    sampling = submit.sampling
    stop_token_ids = sampling.stop_token_ids
    if not sampling.ignore_eos:
        eos = (token for token in model.eos_token_ids if token < model.vocab_size)  # configs name tokens that are not
        stop_token_ids = tuple(dict.fromkeys((*eos, *stop_token_ids)))
    wire = msgspec.structs.replace(sampling, stop_token_ids=stop_token_ids)
    seq = Sequence(
        submit.request_id,
        submit.token_ids,
        wire,
        max_model_len=max_model_len,
        num_generated=submit.num_generated,
        priority=submit.priority,
        root=root_digest(submit.cache_salt),
        client=client,
        arrival_time=now,
    )
    switch = model.rope.switches_at
    if switch is not None and seq.num_prompt > switch:
        seq.rope_start = max_model_len
        seq.root = root_digest(submit.cache_salt, long_rope=True)
    return seq


def last_output(seq: Sequence) -> RequestOutput | None:
    """Of a request that an earlier engine had brought to its end, or to that of this engine's context; else None."""
    generated = len(seq.tokens) - seq.num_prompt
    if generated and seq.tokens[-1] in seq.stop_ids and len(seq.tokens) >= seq.min_length:
        return RequestOutput(
            request_id=seq.request_id, token_ids=[], finish_reason="stop", stop_token_id=seq.tokens[-1]
        )
    if generated and len(seq.tokens) >= seq.max_length:
        return RequestOutput(request_id=seq.request_id, token_ids=[], finish_reason="length")
    return None
