"""Answers from an `LLM` in this process."""

from __future__ import annotations

from collections.abc import Generator

from gllm.apps.chat.session import ChatError, ContextFull, Message
from gllm.apps.offline.llm import LLM
from gllm.sampling_params import SamplingParams

_LEAST_ROOM = 256
"""Tokens that the history leaves free for an answer, if the context is at least four times as large."""


class OfflineBackend:
    def __init__(self, llm: LLM, sampling: SamplingParams) -> None:
        self._llm = llm
        self._sampling = sampling

    def answer(self, messages: list[Message]) -> Generator[str, None, None]:
        room = min(self._sampling.max_tokens or _LEAST_ROOM, self._llm.max_model_len // 4)
        try:
            token_ids = self._llm.chat_token_ids([dict(message) for message in messages])
            if len(token_ids) + room > self._llm.max_model_len:
                raise ContextFull
            left = self._llm.max_model_len - len(token_ids)
            yield from self._llm.stream(token_ids, _at_most(self._sampling, left))
        except (ValueError, RuntimeError) as error:
            raise ChatError(str(error)) from error


def _at_most(sampling: SamplingParams, tokens: int) -> SamplingParams:
    import msgspec

    if sampling.max_tokens is None or sampling.max_tokens <= tokens:
        return sampling
    return msgspec.structs.replace(sampling, max_tokens=tokens)
