"""What an engine output adds to an answer's text: shared by the gateway and the offline `LLM`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from gllm.sampling_params import SamplingParams
from gllm.wire.messages import RequestOutput


class Stream(Protocol):
    """What is used of `gllm.text.output.detokenizer.TextStream`."""

    stop_reason: str | None
    num_tokens: int

    def feed(self, token_ids: Sequence[int]) -> str: ...
    def finish(self) -> str: ...


class AnswerPiece(msgspec.Struct, gc=False):
    text: str
    token_ids: list[int]
    """Leading tokens of the output that belong to the answer, with the EOS or stop token that ended it."""
    finish_reason: str | None
    """stop or length."""
    stop_reason: str | int | None
    """vLLM's: the stop string, or the stop token that the request named; None for EOS and length."""
    matched_stop: str | int | None
    """SGLang's: the same, and the id of an EOS token."""


class AnswerText:
    """One answer: detokenizes, and ends it at a stop string."""

    def __init__(self, stream: Stream, sampling: SamplingParams, eos_token_ids: Collection[int]) -> None:
        """eos_token_ids: the model's."""
        self._stream = stream
        # The token that ends the answer is part of its text, like a stop string.
        self._keep_stop_token = sampling.include_stop_str_in_output
        self._eos = frozenset(() if sampling.ignore_eos else eos_token_ids)
        self._fed = 0

    def take(self, output: RequestOutput) -> AnswerPiece:
        ids, reason = output.token_ids, output.finish_reason
        stop_token = output.stop_token_id
        shown = ids if stop_token is None or self._keep_stop_token else ids[:-1]
        text = self._stream.feed(shown) if shown else ""
        if reason is not None and self._stream.stop_reason is None:
            # The last held-back text may hold a stop string that ends with the last token.
            text += self._stream.finish()
        stop_string = self._stream.stop_reason
        if stop_string is not None:
            # Tokens after the stop string came in the same message; they are no part of the answer.
            ids = ids[: self._stream.num_tokens - self._fed]
            piece = AnswerPiece(text, ids, "stop", stop_string, stop_string)
        else:
            named = None if stop_token in self._eos else stop_token
            piece = AnswerPiece(text, ids, reason, named, stop_token)
        self._fed += len(ids)
        return piece
