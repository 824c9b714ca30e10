"""The config of a Hugging Face folder: config.json and generation_config.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec

from gllm.checkpoint.fields import Fields
from gllm.checkpoint.hf_folder import read_config, read_json_object
from gllm.config import Dtype
from gllm.models.config import ModelConfig
from gllm.models.config_files.common import check_heads
from gllm.models.config_files.unsupported import find_family
from gllm.models.family import Family
from gllm.sampling_params import DEFAULTED_FIELDS
from gllm.text.vocabulary.eos import folder_eos_ids

_DTYPES: dict[str, Dtype] = {name: name for name in get_args(Dtype)}
_QUANTIZATION_KEYS = ("quantization_config", "compression_config", "quantization")
"""Keys of transformers, of older llm-compressor and of MLX."""


def read_hf_config(folder: Path, families: Sequence[Family]) -> ModelConfig:
    """Return the config of a Hugging Face folder. Raises ValueError, which names the file and the key."""
    path = folder / "config.json"
    config = Fields(read_config(folder), str(path))
    family = find_family(config, families)
    for key in _QUANTIZATION_KEYS:
        method = config.get(key)
        if method is not None:
            name = method.get("quant_method", "unknown") if isinstance(method, dict) else method
            raise config.error(key, f"({name}) is not supported: use an unquantized checkpoint or a GGUF")
    model = msgspec.structs.replace(
        family.read_config(config, family.architecture),
        dtype=_dtype(config),
        eos_token_ids=folder_eos_ids(folder),
        bos_token_id=next(iter(config.token_ids("bos_token_id")), None),
        generation_defaults=_sampling_defaults(folder / "generation_config.json"),
    )
    return check_heads(model, str(path))


def _dtype(config: Fields) -> Dtype:
    key = "dtype" if config.get("dtype") is not None else "torch_dtype"
    value = config.get(key, "float32")
    name = _DTYPES.get(value) if isinstance(value, str) else None
    if name is None:
        raise config.error(key, f"{value!r} is not supported; supported are float32, bfloat16, float16")
    return name


def _sampling_defaults(path: Path) -> dict[str, float | int]:
    """Return the authors' recommendations, whether or not they set `do_sample`."""
    generation = Fields(read_json_object(path), str(path))
    defaults: dict[str, float | int] = {}
    for key in DEFAULTED_FIELDS:
        value = generation.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise generation.error(key, f"must be a number, not {value!r}")
        defaults[key] = value
    return defaults
