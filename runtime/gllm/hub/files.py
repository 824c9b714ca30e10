"""Which files of a repository a model needs. Pure: names in, names out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from pathlib import PurePosixPath
from typing import NamedTuple

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"

READ_HERE = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Read at start if they are there: their absence changes what the model does."""
_FOR_OTHERS = ("added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")
"""Small files that other programs want of the folder."""
_TEMPLATES = re.compile(r"(additional_chat_templates|chat_templates)/[^/]+\.jinja")
_NUMBERED = re.compile(r"model-\d+-of-\d+\.safetensors")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_NO_MODEL = re.compile(r"(^|[-._])(mmproj|imatrix)([-._]|$)", re.IGNORECASE)

USUAL_GGUF = "Q4_K_M"
"""Taken if a repository has several and none is named."""


class NeededFiles(NamedTuple):
    settings: tuple[str, ...]
    weights: tuple[str, ...]
    model: str
    """Path of what `gllm serve` gets, within the repository; "": the folder itself."""


def needed_files(names: Collection[str], gguf: str, read: Callable[[str], bytes]) -> NeededFiles:
    """Of a repository with files of these names: safetensors if it has them, else one GGUF file with all its parts.

    gguf: which GGUF file, by its name or quantization; "": safetensors are preferred. read: content of a small file.
    Raises ValueError, in one line, if nothing can be served or the choice is not clear.
    """
    weights = () if gguf else _safetensors(names, read)
    if weights:
        if CONFIG not in names:
            raise ValueError(f"it has no {CONFIG}: it is not a model in Hugging Face's layout")
        return NeededFiles(_settings(names), weights, "")
    parts = _gguf(names, gguf)
    return NeededFiles((), parts, parts[0])


def needed_settings(names: Collection[str]) -> NeededFiles:
    """Without weights, for random ones."""
    if CONFIG not in names:
        raise ValueError(f"it has no {CONFIG}")
    return NeededFiles(_settings(names), (), "")


def _settings(names: Collection[str]) -> tuple[str, ...]:
    fixed = (*READ_HERE, *_FOR_OTHERS, INDEX)
    return tuple(sorted(name for name in names if name in fixed or _TEMPLATES.fullmatch(name)))


def _safetensors(names: Collection[str], read: Callable[[str], bytes]) -> tuple[str, ...]:
    """The files that hold the weights once: a repository may hold them again in other layouts."""
    if INDEX in names:
        try:
            shards = tuple(sorted(set(json.loads(read(INDEX))["weight_map"].values())))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"its {INDEX} is not a valid index") from None
        missing = [shard for shard in shards if shard not in names]
        if missing:
            raise ValueError(f"it has no {missing[0]}, which {INDEX} names")
        return shards
    if "model.safetensors" in names:
        return ("model.safetensors",)
    return tuple(sorted(name for name in names if _NUMBERED.fullmatch(name)))


def _gguf(names: Collection[str], wanted: str) -> tuple[str, ...]:
    """All parts of one GGUF file, in order."""
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if path.suffix == ".gguf" and not _NO_MODEL.search(path.stem):
            models.setdefault(_SPLIT.sub("", name.removesuffix(".gguf")), []).append(name)
    if not models:
        kinds = ", ".join(sorted({suffix for name in names if (suffix := PurePosixPath(name).suffix) in _PICKLES}))
        raise ValueError(f"it has neither safetensors nor a GGUF file{kinds and f' ({kinds} files are never read)'}")
    found = [model for model in models if _is_meant(model, wanted)] if wanted else list(models)
    if not wanted and len(found) > 1:
        found = [model for model in models if _is_meant(model, USUAL_GGUF)] or found
    if len(found) == 1:
        return tuple(models[found[0]])
    if not found:
        raise ValueError(f"it has no GGUF file {wanted}; there are {_listed(models)}")
    raise ValueError(f"{wanted or 'it'} may be one of {_listed(found)}: name one, such as :{_tag(found[0])}")


_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")


def _is_meant(model: str, wanted: str) -> bool:
    """model: path of a GGUF file without suffix and number."""
    wanted = _SPLIT.sub("", wanted.removesuffix(".gguf"))
    if wanted in (model, PurePosixPath(model).name):
        return True
    return re.search(rf"(^|[-./]){re.escape(wanted)}($|[-./])", model, re.IGNORECASE) is not None


def _tag(model: str) -> str:
    return PurePosixPath(model).name


def _listed(models: Collection[str]) -> str:
    return ", ".join(sorted(models)[:12]) + (", ..." if len(models) > 12 else "")
