"""What an engine output adds to an answer's text: shared by the gateway and the offline `LLM`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gllm.messages import RequestOutput


class Stream(Protocol):
    """What is used of `gllm.text.detokenizer.TextStream`."""

    stop_reason: str | None
    num_tokens: int

    def feed(self, token_ids: Sequence[int]) -> str: ...
    def finish(self) -> str: ...


class AnswerPiece(msgspec.Struct, gc=False):
    text: str
    num_tokens: int
    """Leading tokens of the output that belong to the answer, with the EOS or stop token that ended it."""
    num_shown: int
    """The same without a stop token that is not part of the text."""
    finish_reason: str | None


class AnswerText:
    """One answer: detokenizes, and ends it at a stop string."""

    def __init__(self, stream: Stream, *, keep_stop_token: bool) -> None:
        """keep_stop_token: the token that ends the answer is part of its text (include_stop_str_in_output)."""
        self._stream = stream
        self._keep_stop_token = keep_stop_token
        self._fed = 0

    def take(self, output: RequestOutput) -> AnswerPiece:
        ids, reason = output.token_ids, output.finish_reason
        shown = ids
        if output.stop_token_id is not None and not self._keep_stop_token:
            shown = ids[:-1]
        text = self._stream.feed(shown) if shown else ""
        used, num_shown = len(ids), len(shown)
        if self._stream.stop_reason is not None:
            # Tokens after the stop string came in the same message; they are no part of the answer.
            reason = "stop"
            used = num_shown = self._stream.num_tokens - self._fed
        elif reason is not None:
            text += self._stream.finish()
            # The last held-back text may hold a stop string that ends with the last token.
            if self._stream.stop_reason is not None:
                reason = "stop"
        self._fed += used
        return AnswerPiece(text, used, num_shown, reason)
