"""How long a context a config.json promises, and how much of it can be served exactly."""

from __future__ import annotations

from typing import Any

from gllm.model_config_loader.families import Family
from gllm.model_config_loader.fields import Fields
from gllm.model_config_loader.rope import scaled_positions
from gllm.models.config import RopeConfig

_DEFAULT_WINDOW = 4096
"""Of the Qwen families in transformers."""
_DEFAULT_WINDOW_LAYERS = 28


def load_context(
    config: Fields, family: Family, rope: RopeConfig, max_position: int, num_layers: int
) -> dict[str, Any]:
    """`max_position`, `default_context` and `context_note` of ModelConfig."""
    context = limited_context(rope, max_position, "sliding_window", sliding_window(config, family, num_layers))
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
    """The same from the config's number of positions and its attention window, which `window_key` names."""
    default = scaled_positions(rope, max_position)
    most = max(default, max_position)
    if window is not None and window < most:
        note = f"{window_key} is {window} and attention windows are not supported: within the window answers are exact"
        return {"max_position": window, "context_note": note}
    return {"max_position": most, "default_context": default if default < most else 0}


def sliding_window(config: Fields, family: Family, num_layers: int) -> int | None:
    """The attention window of any layer, by the family's rule in transformers; None if every layer sees everything."""
    layer_types = config.get("layer_types")
    if family.window_key_decides:
        # An explicit null means no window, a missing key means the default.
        if "sliding_window" not in config.values:
            return family.window
        used = config.get("sliding_window") is not None
    elif isinstance(layer_types, list):
        used = "sliding_attention" in layer_types
    else:
        used = config.boolean("use_sliding_window", False)
        first = config.get("max_window_layers", _DEFAULT_WINDOW_LAYERS)
        if family.windows_after_max_window_layers and isinstance(first, int):
            used = used and first < num_layers
    return config.positive_int("sliding_window", _DEFAULT_WINDOW) if used else None
