"""POST /generate: SGLang's objects, in one piece or as events."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Collection
from typing import Any

import msgspec

from gllm.gateway.api.sglang.native_completion import completion_of, ids_of_prompts
from gllm.gateway.protocol.chunks import DONE, error_frame
from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.protocol.logprobs import finite
from gllm.gateway.protocol.sglang_schema import GenerateRequest
from gllm.gateway.request.answer import Answer
from gllm.gateway.request.generation import Generation
from gllm.gateway.shared.gateway import Gateway
from gllm.text.output.answer_text import TextDelta
from gllm.wire.messages import TokenLogprob

_json = msgspec.json.Encoder().encode


async def open_generate(request: GenerateRequest, gateway: Gateway) -> Answer:
    """Open the answer. Raises ApiError or ParameterError for any error before the first token."""
    arrived = time.monotonic()
    completion = await asyncio.to_thread(completion_of, request, gateway.model)
    generation = await Generation.open(completion, gateway, f"gen-{uuid.uuid4().hex}")
    return GenerateAnswer(request, generation, n=completion.choices_per_prompt, arrived=arrived)


class _Text:
    """The state of one choice after the deltas so far."""

    def __init__(self) -> None:
        self.text = ""
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.shown_logprobs: list[tuple[float | None, int, str | None]] = []
        self.finish: dict[str, Any] | None = None
        """SGLang's `finish_reason`; None before the last delta."""

    def add(self, delta: TextDelta) -> None:
        self.text += delta.text
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs or ()
        if delta.finish_reason == "length":
            self.finish = {"type": "length", "length": len(self.token_ids)}
        elif delta.finish_reason is not None:
            self.finish = {"type": "stop", "matched": delta.matched_stop}


class GenerateAnswer(Answer):
    """One object for each choice. Each event has the whole text so far, as in SGLang."""

    def __init__(self, request: GenerateRequest, generation: Generation, *, n: int, arrived: float) -> None:
        """n: choices of each prompt. arrived: time.monotonic() of the request."""
        super().__init__(generation)
        self._request = request
        self._tokenizer = generation.model.tokenizer
        self._choices_per_prompt = n
        self._arrived = arrived
        self._texts = [_Text() for _ in generation.choices]

    async def frames(self) -> AsyncGenerator[bytes, None]:
        try:
            async for delta in self._generation.deltas():
                self._add(delta)
                shown = self._show(delta.index)
                if not self._request.has_one_answer:
                    shown["index"] = delta.index
                yield b"data: " + _json(shown) + b"\n\n"
        except ApiError as error:
            yield error_frame(error.body())
            return
        yield DONE

    async def whole(self) -> bytes:
        async for delta in self._generation.deltas():
            self._add(delta)
        answers = [self._show(index) for index in range(len(self._texts))]
        return _json(answers[0] if self._request.has_one_answer else answers)

    def _add(self, delta: TextDelta) -> None:
        made = self._texts[delta.index]
        made.add(delta)
        made.shown_logprobs += [self._entry(one.logprob, one.token_id) for one in delta.logprobs or ()]

    def _show(self, index: int) -> dict[str, Any]:
        made, choice = self._texts[index], self._generation.choices[index]
        meta = {
            "id": choice.request_id,
            "finish_reason": made.finish,
            "prompt_tokens": len(choice.prompt),
            "completion_tokens": len(made.token_ids),
            "cached_tokens": choice.cached_tokens,
            "e2e_latency": time.monotonic() - self._arrived,
        }
        if self._request.return_logprob:
            meta |= self._prompt_logprobs(index) | {"output_token_logprobs": made.shown_logprobs}
            # Only the last event has the alternatives: otherwise each event would repeat all earlier ones.
            if made.finish is not None:
                meta |= self._answer_alternatives(index)
        return {"text": made.text, "output_ids": made.token_ids, "meta_info": meta}

    def _prompt_logprobs(self, index: int) -> dict[str, Any]:
        """Return the prompt's logprobs from `logprob_start_len` on. The lists are empty if it is not given."""
        choice = self._generation.choices[index]
        asked: list[tuple[int, TokenLogprob | None]] = []
        if self._request.shows_prompt and choice.prompt_logprobs is not None:
            start = self._request.logprob_start_len or 0
            asked = list(zip(choice.prompt, choice.prompt_logprobs, strict=True))[start:]
            # SGLang's clients leave the first entry out of their sums: it has no value, wherever the list starts.
            asked[:1] = [(token, None) for token, _ in asked[:1]]
        return {
            "input_token_logprobs": [self._entry(one.logprob if one else None, token) for token, one in asked],
            "input_top_logprobs": [self._alternatives(one) if one else None for _, one in asked],
        }

    def _answer_alternatives(self, index: int) -> dict[str, Any]:
        entries = self._texts[index].logprobs
        if self._request.token_ids_logprob is None:
            return {"output_top_logprobs": [self._alternatives(one) for one in entries]}
        lists = ids_of_prompts(self._request.token_ids_logprob)
        own = None if lists is None else lists[index // self._choices_per_prompt]
        return {"output_token_ids_logprobs": [self._alternatives(one, own) for one in entries]}

    def _entry(self, value: float | None, token: int) -> tuple[float | None, int, str | None]:
        """Return (logprob, token id, text). The text is None unless the request asks for it."""
        text = self._tokenizer.token_text(token) if self._request.return_text_in_logprobs else None
        return None if value is None else finite(value), token, text

    def _alternatives(self, entry: TokenLogprob, only: Collection[int] | None = None) -> list[Any]:
        """Return the alternatives. only: the ids that this prompt asked for, if each prompt has a list of its own."""
        return [self._entry(value, token) for token, value in entry.top if only is None or token in only]
