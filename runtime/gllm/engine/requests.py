"""From a gateway's `Submit` to a sequence: what the engine refuses, and what it fills in."""

from __future__ import annotations

import random

import msgspec

from gllm.engine.kv_pages import root_digest
from gllm.engine.sequence import Sequence
from gllm.messages import Submit
from gllm.model_config import ModelConfig


def refusal(submit: Submit, *, vocab_size: int, max_model_len: int) -> str | None:
    """Why this request cannot be served, for its client; None if it can."""
    length = len(submit.token_ids)
    if length == 0:
        return "the prompt is empty: give at least one token"
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
    ):
        if token_ids and max(token_ids) >= vocab_size:
            return f"{field} has a token id outside the model's vocabulary of {vocab_size}"
    return None


def make_sequence(submit: Submit, model: ModelConfig, *, max_model_len: int, client: bytes, now: float) -> Sequence:
    """A sequence for a request that `refusal` has nothing against.

    Its sampling parameters are in the wire form: a random seed where none was asked for, and the model's
    EOS tokens among the stop tokens, so that the worker can mask all of these before min_tokens. Raises
    ParameterError when these make too long a list.
    """
    sampling = submit.sampling
    stop_token_ids = sampling.stop_token_ids
    if not sampling.ignore_eos:
        eos = (token for token in model.eos_token_ids if token < model.vocab_size)  # configs name tokens that are not
        stop_token_ids = tuple(dict.fromkeys((*eos, *stop_token_ids)))
    seed = random.getrandbits(64) - 2**63 if sampling.seed is None else sampling.seed
    wire = msgspec.structs.replace(sampling, seed=seed, stop_token_ids=stop_token_ids)
    return Sequence(
        submit.request_id,
        submit.token_ids,
        wire,
        max_model_len=max_model_len,
        priority=submit.priority,
        root=root_digest(submit.cache_salt),
        client=client,
        arrival_time=now,
    )
