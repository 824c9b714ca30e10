"""Turns engine outputs into the text of an answer, for the gateway and for the offline `LLM`."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from gllm.sampling_params import SamplingParams
from gllm.text.output.detokenizer import TextStream
from gllm.wire.messages import RequestOutput, TokenLogprob


class TextDelta(msgspec.Struct, gc=False):
    """One engine output after detokenizing and the search for stop strings."""

    index: int
    """Index of the choice to which it belongs."""
    text: str
    token_ids: list[int]
    """Leading tokens of the output that belong to the answer, with the EOS or stop token that ended it."""
    logprobs: list[TokenLogprob] | None
    """One for each of `token_ids`."""
    finish_reason: str | None
    """stop or length."""
    stop_reason: str | int | None
    """As in vLLM: the stop string, or the stop token that the request named; None for EOS and length."""
    matched_stop: str | int | None
    """As in SGLang: the same, but for EOS the id of the EOS token."""


class AnswerText:
    """The text of one answer: detokenizes it, and ends it at a stop string."""

    def __init__(
        self, stream: TextStream, sampling: SamplingParams, eos_token_ids: Collection[int], index: int = 0
    ) -> None:
        """eos_token_ids: EOS tokens of the model. index: index of the choice, for its deltas."""
        self._stream = stream
        self._index = index
        # The token that ends the answer is part of its text, like a stop string.
        self._keep_stop_token = sampling.include_stop_str_in_output
        self._eos = frozenset(() if sampling.ignore_eos else eos_token_ids)
        self._fed = 0

    def take(self, output: RequestOutput) -> TextDelta:
        ids, reason = output.token_ids, output.finish_reason
        stop_token = output.stop_token_id
        shown = ids if stop_token is None or self._keep_stop_token else ids[:-1]
        text = self._stream.feed(shown) if shown else ""
        if reason is not None and self._stream.stop_reason is None:
            # The held text may have a stop string that ends with the last token.
            text += self._stream.finish()
        matched: str | int | None = self._stream.stop_reason
        named = matched
        if matched is not None:
            # Tokens after the stop string came in the same message; they do not belong to the answer.
            ids, reason = ids[: self._stream.num_tokens - self._fed], "stop"
        else:
            matched, named = stop_token, None if stop_token in self._eos else stop_token
        self._fed += len(ids)
        logprobs = output.logprobs[: len(ids)] if output.logprobs else None
        return TextDelta(self._index, text, ids, logprobs, reason, named, matched)
