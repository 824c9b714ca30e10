"""Sampling parameters of a request, as plain data that all processes share."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

MAX_LOGPROBS = 20
MAX_LOGPROB_TOKEN_IDS = 128
MAX_STOP_CHARS = 16 * 2**20
"""Maximum number of characters of all stop strings together; the number of strings has no limit."""
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIAS = 1024
MAX_ALLOWED_TOKEN_IDS = 2**20
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_CHARS = 32768
"""Maximum number of characters of all bad words together."""
MAX_N = 128
MAX_GRAMMAR_BYTES = 65536


DEFAULTED_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Fields whose default may come from the model: generation_config.json, or `general.sampling` of a GGUF header."""

_TUPLES = ("stop", "stop_regex", "bad_words", "stop_token_ids", "allowed_token_ids", "logprob_token_ids")


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The rules by which one request's next token is chosen and its answer ends.

    The sampler and the engine use the fields before `n`; the gateway or `LLM` uses `n` and the fields after it.
    """

    max_tokens: int | None = 16
    """Maximum of generated tokens; None: up to the model's context length."""
    min_tokens: int = 0
    """Minimum of generated tokens: until then, EOS and stop tokens are masked, and stop strings are ignored."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """Keep the k most likely tokens; 0 or -1 keeps all."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    """Draws depend on (seed, position) only, so they are the same alone, in a batch and after preemption."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logit_bias: dict[int, float] = {}
    allowed_token_ids: tuple[int, ...] = ()
    """Only these may be sampled; empty: all. EOS is sampled only if it is one of them."""
    bad_word_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences of tokens that must not be generated: the last token is masked after the others."""
    logprobs: int | None = None
    """Number of alternatives with each sampled token (0: only the token itself)."""
    logprob_token_ids: tuple[int, ...] = ()
    """With each sampled token, return the log-probabilities of these tokens instead of the most likely ones.
    Needs `logprobs`."""
    prompt_logprobs: int | None = None
    grammar: str | None = None
    """An llguidance grammar (its serialised JSON form) that the output must match."""
    n: int = 1
    stop: tuple[str, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    stop_regex: tuple[str, ...] = ()
    """Regular expressions. The text ends after the token with which one of them matches."""
    bad_words: tuple[str, ...] = ()
    """Converted to `bad_word_ids`, each with and without a space before it."""
    truncate_prompt_tokens: int | None = None
    """Keep only this number of prompt tokens; -1: as many as leave room for the answer."""
    truncation_side: Literal["left", "right"] = "left"
    """The side at which a prompt that is too long is cut."""

    def __post_init__(self) -> None:
        self._make_tuples()
        for field, value, low, high in (
            ("max_tokens", self.max_tokens, 0, 2**31 - 1),
            ("min_tokens", self.min_tokens, 0, 2**31 - 1),
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("top_k", self.top_k, -1, 2**31 - 1),
            ("min_p", self.min_p, 0.0, 1.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("seed", self.seed, -(2**63), 2**63 - 1),
            ("logprobs", self.logprobs, 0, MAX_LOGPROBS),
            ("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS),
            ("n", self.n, 1, MAX_N),
            ("truncate_prompt_tokens", self.truncate_prompt_tokens, -1, 2**31 - 1),
        ):
            if value is not None and not (low <= value <= high and math.isfinite(value)):
                raise ParameterError(field, f"{field} must be between {low} and {high}, not {value}")
        if self.top_p == 0.0:
            raise ParameterError("top_p", "top_p must be above 0")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ParameterError(
                "min_tokens", f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({self.max_tokens})"
            )
        for field, size, most in (
            ("stop_token_ids", len(self.stop_token_ids), MAX_STOP_TOKEN_IDS),
            ("allowed_token_ids", len(self.allowed_token_ids), MAX_ALLOWED_TOKEN_IDS),
            ("logprob_token_ids", len(self.logprob_token_ids), MAX_LOGPROB_TOKEN_IDS),
            ("bad_words", len(self.bad_words), MAX_BAD_WORDS),
            ("logit_bias", len(self.logit_bias), MAX_LOGIT_BIAS),
            ("grammar", len(self.grammar or ""), MAX_GRAMMAR_BYTES),
        ):
            if size > most:
                raise ParameterError(field, f"{field} has {size} entries; at most {most} are allowed")
        for token, bias in self.logit_bias.items():
            if token < 0 or not -100.0 <= bias <= 100.0:
                raise ParameterError("logit_bias", "logit_bias maps token ids to values from -100 to 100")
        for field, token_ids in (
            ("stop_token_ids", self.stop_token_ids),
            ("allowed_token_ids", self.allowed_token_ids),
            ("logprob_token_ids", self.logprob_token_ids),
        ):
            if token_ids and min(token_ids) < 0:
                raise ParameterError(field, f"{field} must not be negative")
        if self.logprob_token_ids and self.logprobs is None:
            raise ParameterError("logprob_token_ids", "logprob_token_ids needs logprobs")
        self._check_texts()

    def _make_tuples(self) -> None:
        """Convert lists, single strings and None, which Python callers may pass, to tuples."""
        for field in _TUPLES:
            value: Any = getattr(self, field)
            if not isinstance(value, tuple):
                made = (value,) if isinstance(value, str) else tuple(value or ())
                msgspec.structs.force_setattr(self, field, made)

    def _check_texts(self) -> None:
        for field, texts, most in (
            ("stop", self.stop, MAX_STOP_CHARS),
            ("bad_words", self.bad_words, MAX_BAD_WORD_CHARS),
        ):
            if not all(texts):
                raise ParameterError(field, f"{field} must not have an empty text")
            if sum(map(len, texts)) > most:
                raise ParameterError(field, f"all texts of {field} together must not exceed {most} characters")
        banned = {run[0] for run in self.bad_word_ids if len(run) == 1}
        if self.allowed_token_ids and banned.issuperset(self.allowed_token_ids):
            raise ParameterError("allowed_token_ids", "bad_words leave none of the allowed_token_ids")
        if self.truncation_side not in ("left", "right"):
            raise ParameterError("truncation_side", "truncation_side must be left or right")
        if self.truncate_prompt_tokens == 0:
            raise ParameterError("truncate_prompt_tokens", "truncate_prompt_tokens must be -1, or at least 1")

    def for_choice(self, index: int) -> SamplingParams:
        """Return the parameters of one of n choices: its seed is seed + index, wrapped to 64 bits."""
        if self.seed is None or index == 0:
            return self
        return msgspec.structs.replace(self, seed=(self.seed + index + 2**63) % 2**64 - 2**63)


class ParameterError(ValueError):
    """A field of a request has an invalid value; `param` is its name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param
