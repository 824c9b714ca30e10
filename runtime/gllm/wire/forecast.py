"""What an engine predicts of new prompts, for gateways that choose between engines."""

from __future__ import annotations

import msgspec


class PrefillForecast(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """The time to the first token of a prompt that arrives now, in seconds, beside the running decodes:
    `waiting` + `token` * (its tokens) + `pair` * (its pairs of tokens, `gllm.engine.time_model.chunk_pairs`)."""

    waiting: float = 0.0
    """Until the prompt tokens that wait are computed."""
    token: float = 0.0
    """For each token to compute; 0: the engine has measured no step yet."""
    pair: float = 0.0
    """For each pair of tokens in its attention."""
