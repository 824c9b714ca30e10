"""config.json and generation_config.json of a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import msgspec

from gllm.checkpoint.wrong_files import no_model_folder, wrong_content
from gllm.model_config_loader.architecture import load_architecture
from gllm.model_config_loader.chatglm import load_chatglm_shape
from gllm.model_config_loader.context import load_context
from gllm.model_config_loader.families import FAMILIES, Family
from gllm.model_config_loader.fields import MAX_LAYERS, Fields, check_shape
from gllm.model_config_loader.moe import load_moe
from gllm.model_config_loader.rope import load_rope
from gllm.models.config import ModelConfig
from gllm.text.vocabulary.eos import folder_eos_ids

_DTYPES: dict[str, Literal["float32", "bfloat16", "float16"]] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}
_QUANTIZATION_KEYS = ("quantization_config", "compression_config", "quantization")
"""Of transformers, of older llm-compressor, of MLX."""
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def load_huggingface_config(folder: Path) -> ModelConfig:
    """Raises ValueError naming the file and the key."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(no_model_folder(folder))
    config = Fields(_read_json(path), str(path))
    architecture = load_architecture(config)
    for key in _QUANTIZATION_KEYS:
        if config.get(key) is not None:
            method = config.get(key)
            name = method.get("quant_method", "unknown") if isinstance(method, dict) else method
            raise config.error(key, f"({name}) is not supported: use an unquantized checkpoint or a GGUF")
    family = FAMILIES.get(architecture)
    shape = load_chatglm_shape(config, architecture) if family is None else _shape(config, architecture, family)
    generation = _generation_config(folder)
    model = msgspec.structs.replace(
        shape,
        dtype=_dtype(config),
        eos_token_ids=folder_eos_ids(folder),
        bos_token_id=next(iter(config.token_ids("bos_token_id")), None),
        generation_defaults=_sampling_defaults(generation),
    )
    return check_shape(model, str(path))


def _shape(config: Fields, architecture: str, family: Family) -> ModelConfig:
    """A model in transformers' own layout."""
    if config.get("hidden_act", "silu") != "silu":
        raise config.error("hidden_act", f"{config.get('hidden_act')!r} is not supported (silu is)")
    max_position = config.positive_int("max_position_embeddings", family.max_position)
    num_heads = config.positive_int("num_attention_heads")
    hidden_size = config.positive_int("hidden_size")
    num_layers = config.positive_int("num_hidden_layers", most=MAX_LAYERS)
    head_dim = _head_dim(config, family, hidden_size, num_heads)
    rope = load_rope(config, family, max_position, head_dim)
    bias = config.boolean(family.qkv_bias_key, family.qkv_bias) if family.qkv_bias_key else family.qkv_bias
    return ModelConfig(
        architecture=architecture,
        hidden_size=hidden_size,
        intermediate_size=config.positive_int("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=config.positive_int("num_key_value_heads", family.num_kv_heads or num_heads),
        head_dim=head_dim,
        vocab_size=config.positive_int("vocab_size"),
        rms_norm_eps=config.positive_float("rms_norm_eps", family.rms_norm_eps),
        rope=rope,
        # False is the default of all these families.
        tie_word_embeddings=config.boolean("tie_word_embeddings", False),
        attention_bias=bias,
        attention_out_bias=bias and family.out_bias,
        mlp_bias=family.mlp_bias and config.boolean("mlp_bias", False),
        moe=load_moe(config, family, num_layers),
        **load_context(config, family, rope, max_position, num_layers),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {wrong_content(path) or error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return values


def _head_dim(config: Fields, family: Family, hidden_size: int, num_heads: int) -> int:
    if family.head_dim is not None:
        return config.positive_int("head_dim", family.head_dim)
    if config.get("head_dim") is None and hidden_size % num_heads:
        raise config.error("hidden_size", f"({hidden_size}) is no multiple of num_attention_heads ({num_heads})")
    return config.positive_int("head_dim", hidden_size // num_heads)


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
