"""Token ids and log-probabilities of a served model, over /v1/completions with token ids as prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from gllm.apps.eval.client import PATHS, EvalClient

_PLAIN = {"temperature": 0.0, "repetition_penalty": 1.0}
"""Greedy, without the penalty that a model's generation_config.json may set."""


class ServedModel:
    """One model of a server, asked with token ids."""

    def __init__(
        self,
        client: EvalClient,
        model: str,
        *,
        concurrency: int = 8,
        on_done: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        """
        Args:
            concurrency: requests in flight.
            on_done: called with the number of new tokens as each request ends.
        """
        self._client, self._model, self._on_done = client, model, on_done
        self._gate = asyncio.Semaphore(concurrency)

    async def answers(self, prompts: Sequence[list[int]], max_tokens: int) -> list[list[int]]:
        """Return the tokens of the greedy answer to each prompt.

        Raises RequestFailed, and ValueError if the server sends no token ids.
        """
        return await asyncio.gather(*(self._answer(prompt, max_tokens) for prompt in prompts))

    async def logprobs(self, texts: Sequence[list[int]]) -> list[list[float]]:
        """Return the log-probability of each token but the first, for each text.

        Raises RequestFailed, and ValueError if the server sends no log-probabilities of prompts.
        """
        return await asyncio.gather(*(self._score(text) for text in texts))

    async def _complete(self, prompt: list[int], **fields: Any) -> dict[str, Any]:
        async with self._gate:
            body = {"model": self._model, "prompt": prompt, **_PLAIN, **fields}
            answer = await self._client.post(PATHS["completions"], body)
        choice: dict[str, Any] = answer["choices"][0]
        return choice

    async def _answer(self, prompt: list[int], max_tokens: int) -> list[int]:
        choice = await self._complete(prompt, max_tokens=max_tokens, return_token_ids=True)
        tokens = choice.get("token_ids")
        if not isinstance(tokens, list):
            raise ValueError("the server does not send token_ids (return_token_ids), as gLLM and vLLM do")
        self._on_done(len(tokens))
        return tokens

    async def _score(self, text: list[int]) -> list[float]:
        choice = await self._complete(text, max_tokens=1, prompt_logprobs=0)
        entries = choice.get("prompt_logprobs")
        if not isinstance(entries, list) or len(entries) != len(text):
            raise ValueError("the server does not send prompt_logprobs, as gLLM and vLLM do")
        self._on_done(1)
        return [float(entry[str(token)]["logprob"]) for token, entry in zip(text[1:], entries[1:], strict=True)]
