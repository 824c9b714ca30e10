"""config.json and generation_config.json of a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from gllm.model_config import ModelConfig
from gllm.model_config_loader.fields import MAX_LAYERS, SUPPORTED_ARCHITECTURES, Fields, check_shape
from gllm.model_config_loader.rope import load_rope

_DTYPES: dict[str, Literal["float32", "bfloat16", "float16"]] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_DEFAULT_MAX_POSITION = {"LlamaForCausalLM": 2048, "MistralForCausalLM": 131072}
_MODEL_TYPES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""For configs that were saved without `architectures`."""
_DEFAULT_WINDOW = 4096
"""What transformers assumes for Mistral without `sliding_window`."""


def load_huggingface_config(folder: Path) -> ModelConfig:
    """Raises ValueError naming the file and the key."""
    path = folder / "config.json"
    if not path.is_file():
        files = sorted(file.name for file in folder.glob("*.gguf"))
        hint = f"; for its GGUF give the file, {folder / files[0]}" if files else ""
        raise ValueError(f"{folder} has no config.json: it is not a Hugging Face model folder{hint}")
    config = Fields(_read_json(path), str(path))
    architecture = _architecture(config)
    if config.get("quantization_config") is not None:
        method = config.get("quantization_config")
        name = method.get("quant_method", "unknown") if isinstance(method, dict) else method
        raise config.error("quantization_config", f"({name}) is not supported: use an unquantized checkpoint or a GGUF")
    if config.get("hidden_act", "silu") != "silu":
        raise config.error("hidden_act", f"{config.get('hidden_act')!r} is not supported (silu is)")
    max_position = config.positive_int("max_position_embeddings", _DEFAULT_MAX_POSITION.get(architecture, 32768))
    _refuse_sliding_window(config, architecture, max_position)
    num_heads = config.positive_int("num_attention_heads")
    hidden_size = config.positive_int("hidden_size")
    bias = config.boolean("attention_bias", False)
    generation = _generation_config(folder)
    model = ModelConfig(
        architecture=architecture,
        hidden_size=hidden_size,
        intermediate_size=config.positive_int("intermediate_size"),
        num_layers=config.positive_int("num_hidden_layers", most=MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=config.positive_int("num_key_value_heads", num_heads),
        head_dim=_head_dim(config, architecture, hidden_size, num_heads),
        vocab_size=config.positive_int("vocab_size"),
        max_position=max_position,
        rms_norm_eps=config.positive_float("rms_norm_eps", 1e-6),
        rope=load_rope(config, max_position),
        # False is the default of all these families.
        tie_word_embeddings=config.boolean("tie_word_embeddings", False),
        attention_bias=True if architecture == "Qwen2ForCausalLM" else bias,
        attention_out_bias=False if architecture == "Qwen2ForCausalLM" else bias,
        mlp_bias=config.boolean("mlp_bias", False) if architecture == "LlamaForCausalLM" else False,
        dtype=_dtype(config),
        eos_token_ids=generation.token_ids("eos_token_id") or config.token_ids("eos_token_id"),
        bos_token_id=next(iter(config.token_ids("bos_token_id")), None),
        generation_defaults=_sampling_defaults(generation),
    )
    return check_shape(model, str(path))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return values


def _architecture(config: Fields) -> str:
    names = config.get("architectures") or [_MODEL_TYPES.get(str(config.get("model_type")))]
    name = names[0] if isinstance(names, list) else names
    if name not in SUPPORTED_ARCHITECTURES:
        supported = ", ".join(SUPPORTED_ARCHITECTURES)
        raise config.error("architectures", f"{name!r} is not supported; supported are {supported}")
    return str(name)


def _head_dim(config: Fields, architecture: str, hidden_size: int, num_heads: int) -> int:
    if architecture == "Qwen3ForCausalLM":
        # Qwen3's default does not follow from the hidden size.
        return config.positive_int("head_dim", 128)
    if config.get("head_dim") is None and hidden_size % num_heads:
        raise config.error("hidden_size", f"({hidden_size}) is no multiple of num_attention_heads ({num_heads})")
    return config.positive_int("head_dim", hidden_size // num_heads)


def _refuse_sliding_window(config: Fields, architecture: str, max_position: int) -> None:
    """A window that covers every position is no window."""
    if architecture == "MistralForCausalLM":
        # An explicit null means no window, a missing key means the default.
        window = config.values.get("sliding_window", _DEFAULT_WINDOW)
        used = window is not None and window < max_position
    else:
        used = config.boolean("use_sliding_window", False)
    layer_types = config.get("layer_types", [])
    if used or (isinstance(layer_types, list) and "sliding_attention" in layer_types):
        raise config.error("sliding_window", "is not supported: every layer must attend to the whole context")


def _dtype(config: Fields) -> Literal["float32", "bfloat16", "float16"]:
    key = "dtype" if config.get("dtype") is not None else "torch_dtype"
    value = config.get(key, "float32")
    name = _DTYPES.get(value) if isinstance(value, str) else None
    if name is None:
        raise config.error(key, f"{value!r} is not supported; supported are float32, bfloat16, float16")
    return name


def _generation_config(folder: Path) -> Fields:
    path = folder / "generation_config.json"
    return Fields(_read_json(path) if path.is_file() else {}, str(path))


def _sampling_defaults(generation: Fields) -> dict[str, float | int]:
    """What the model's authors recommend, whether or not they set `do_sample`."""
    defaults: dict[str, float | int] = {}
    for key in _SAMPLING_FIELDS:
        value = generation.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise generation.error(key, f"must be a number, not {value!r}")
        defaults[key] = value
    return defaults
