"""Choose the files of a repository that a model needs. Pure: names in, names out."""

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
"""Files that a start reads if they exist; without one of them the model may behave differently."""
_FOR_OTHERS = ("added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model")
"""Small files that other programs read from the folder."""
_TEMPLATES = re.compile(r"(additional_chat_templates|chat_templates)/[^/]+\.jinja")
_NUMBERED = re.compile(r"model-\d+-of-\d+\.safetensors")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_NO_MODEL = re.compile(r"(^|[-._])(mmproj|imatrix)([-._]|$)", re.IGNORECASE)

USUAL_GGUF = "Q4_K_M"
"""The quantization that is taken if a repository has several and none is named."""


class NeededFiles(NamedTuple):
    settings: tuple[str, ...]
    weights: tuple[str, ...]
    model: str
    """The path within the repository that `gllm serve` takes; "": the folder itself."""


def needed_files(names: Collection[str], gguf: str, read: Callable[[str], bytes]) -> NeededFiles:
    """Choose safetensors if the repository has them, else one GGUF file with all its parts.

    Args:
        names: all files of the repository.
        gguf: the name or quantization of a GGUF file; "": safetensors are preferred.
        read: returns the content of a small file.

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
    """Return the files of a model with random weights. Raises ValueError."""
    if CONFIG not in names:
        raise ValueError(f"it has no {CONFIG}")
    return NeededFiles(_settings(names), (), "")


def _settings(names: Collection[str]) -> tuple[str, ...]:
    fixed = (*READ_HERE, *_FOR_OTHERS, INDEX)
    return tuple(sorted(name for name in names if name in fixed or _TEMPLATES.fullmatch(name)))


def _safetensors(names: Collection[str], read: Callable[[str], bytes]) -> tuple[str, ...]:
    """Return the files that hold each weight once; a repository may have the same weights in other layouts too."""
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


def _gguf(names: Collection[str], asked: str) -> tuple[str, ...]:
    """Return all parts of one GGUF file, in order. Raises ValueError if none or several match."""
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if path.suffix == ".gguf" and not _NO_MODEL.search(path.stem):
            models.setdefault(_SPLIT.sub("", name.removesuffix(".gguf")), []).append(name)
    if not models:
        kinds = ", ".join(sorted({suffix for name in names if (suffix := PurePosixPath(name).suffix) in _PICKLES}))
        raise ValueError(f"it has neither safetensors nor a GGUF file{kinds and f' ({kinds} files are never read)'}")
    found = [model for model in models if _matches(model, asked)] if asked else list(models)
    if not asked and len(found) > 1:
        found = [model for model in models if _matches(model, USUAL_GGUF)] or found
    if len(found) == 1:
        return tuple(models[found[0]])
    if not found:
        raise ValueError(f"it has no GGUF file {asked}; there are {_listed(models)}")
    raise ValueError(f"{asked or 'it'} may be one of {_listed(found)}: name one, such as :{_tag(found[0])}")


_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")


def _matches(model: str, asked: str) -> bool:
    """Whether `asked` names a GGUF file. model: its path without suffix and number."""
    asked = _SPLIT.sub("", asked.removesuffix(".gguf"))
    if asked in (model, PurePosixPath(model).name):
        return True
    return re.search(rf"(^|[-./]){re.escape(asked)}($|[-./])", model, re.IGNORECASE) is not None


def _tag(model: str) -> str:
    return PurePosixPath(model).name


def _listed(models: Collection[str]) -> str:
    return ", ".join(sorted(models)[:12]) + (", ..." if len(models) > 12 else "")
