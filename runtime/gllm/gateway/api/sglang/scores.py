"""The answer of POST /v1/score."""

from __future__ import annotations

import asyncio
import math
import uuid
from typing import Any

from gllm.gateway.api.sglang.native_completion import scoring_of
from gllm.gateway.protocol.sglang_schema import ScoreRequest
from gllm.gateway.request.generation import Generation
from gllm.gateway.shared.gateway import Gateway


async def score(request: ScoreRequest, gateway: Gateway) -> dict[str, Any]:
    """Return the body. Raises ApiError or ParameterError."""
    completion = await asyncio.to_thread(scoring_of, request, gateway.model)
    generation = await Generation.open(completion, gateway, f"score-{uuid.uuid4().hex}")
    try:
        scores = await _scores(request, generation)
    finally:
        await generation.close()
    prompt = generation.counts().prompt
    # The generated token of each item only carries logprobs, so it is not counted.
    usage = {"prompt_tokens": prompt, "completion_tokens": 0, "total_tokens": prompt}
    return {"object": "scoring", "model": gateway.model.name, "scores": scores, "usage": usage}


async def _scores(request: ScoreRequest, generation: Generation) -> list[list[float]]:
    """Return the scores of the labels for each item, in the order of the labels."""
    scores: list[list[float]] = [[] for _ in generation.choices]
    async for delta in generation.deltas():
        if delta.logprobs:
            logprobs = dict(delta.logprobs[0].top)
            values = [logprobs[token] for token in request.label_token_ids]
            scores[delta.index] = _softmax(values) if request.apply_softmax else [math.exp(value) for value in values]
    return scores


def _softmax(values: list[float]) -> list[float]:
    most = max(values)
    weights = [math.exp(value - most) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]
