"""The context length that a config.json promises, and the part of it that can be served exactly."""

from __future__ import annotations

from typing import Any

from gllm.checkpoint.fields import Fields
from gllm.models.config import RopeConfig
from gllm.models.config_files.rope import scaled_positions


def read_context(config: Fields, rope: RopeConfig, max_position: int, window: int | None) -> dict[str, Any]:
    """Return `max_position`, `default_context` and `context_note` of ModelConfig."""
    context = limited_context(rope, max_position, "sliding_window", window)
    chunks = config.get("dual_chunk_attention_config")
    if isinstance(chunks, dict):
        # The rest of the context needs a kind of attention that transformers does not have either.
        key = "original_max_position_embeddings"
        most = context["max_position"]
        original = Fields(chunks, f"{config.where}: dual_chunk_attention_config").positive_int(key, most)
        if original < most:
            note = (
                f"the model was trained on {original} positions and dual_chunk_attention_config is not supported: "
                "a longer --max-model-len extrapolates"
            )
            context |= {"default_context": original, "context_note": note}
    return context


def limited_context(rope: RopeConfig, max_position: int, window_key: str, window: int | None) -> dict[str, Any]:
    """Return `max_position` and its related fields. window: tokens of the attention window, from `window_key`."""
    default = scaled_positions(rope, max_position)
    most = max(default, max_position)
    if window is not None and window < most:
        note = f"{window_key} is {window} and attention windows are not supported: within the window answers are exact"
        return {"max_position": window, "context_note": note}
    return {"max_position": most, "default_context": default if default < most else 0}
