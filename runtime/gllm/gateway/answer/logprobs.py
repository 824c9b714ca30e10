"""Log-probabilities in the three shapes that clients know."""

from __future__ import annotations

from typing import Any

from gllm.gateway.interfaces import Tokenizer
from gllm.messages import TokenLogprob

LOWEST = -9999.0
"""JSON has no -inf; OpenAI sends this."""


def _finite(value: float) -> float:
    return value if value > LOWEST else LOWEST


def chat_logprobs(entries: list[TokenLogprob], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """`choices[].logprobs.content` of a chat: token, logprob, bytes and alternatives."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": tokenizer.token_text(token),
            "logprob": _finite(logprob),
            "bytes": list(tokenizer.token_bytes(token)),
        }

    return [
        {**one(entry.token_id, entry.logprob), "top_logprobs": [one(token, value) for token, value in entry.top]}
        for entry in entries
    ]


class CompletionLogprobs:
    """`choices[].logprobs` of a text completion; keeps the offset from chunk to chunk."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offset = 0

    def render(self, entries: list[TokenLogprob | None], first_token: int | None = None) -> dict[str, Any]:
        """`entries` has None where there is no logprob: a prompt's first token, which is then `first_token`."""
        tokens: list[str] = []
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for entry in entries:
            if entry is None:
                text = self._tokenizer.token_text(first_token) if first_token is not None else ""
                values.append(None)
                tops.append(None)
            else:
                text = self._tokenizer.token_text(entry.token_id)
                values.append(_finite(entry.logprob))
                top: dict[str, float] = {}
                for token, value in entry.top:
                    top.setdefault(self._tokenizer.token_text(token), _finite(value))
                top.setdefault(text, _finite(entry.logprob))
                tops.append(top)
            tokens.append(text)
            offsets.append(self._offset)
            self._offset += len(text)
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Several chunks of `CompletionLogprobs.render` as one."""
    keys = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {key: [value for part in parts for value in part[key]] for key in keys}


def prompt_logprobs(entries: list[TokenLogprob | None], tokenizer: Tokenizer) -> list[dict[str, Any] | None]:
    """vLLM's shape: {token id: {logprob, rank, decoded_token}} for each prompt token, null for the first."""

    def one(entry: TokenLogprob) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for rank, (token, value) in enumerate(entry.top, 1):
            found[str(token)] = {
                "logprob": _finite(value), "rank": rank, "decoded_token": tokenizer.token_text(token),
            }  # fmt: skip
        found[str(entry.token_id)] = {
            "logprob": _finite(entry.logprob), "rank": entry.rank,
            "decoded_token": tokenizer.token_text(entry.token_id),
        }  # fmt: skip
        return found

    return [None if entry is None else one(entry) for entry in entries]
