"""Find the files of a model by its path or its name on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from gllm.checkpoint.wrong_files import no_model_folder
from gllm.config import ModelSource
from gllm.hub.download import Report, find_on_hub
from gllm.hub.errors import HubError
from gllm.hub.files import CONFIG, needed_files
from gllm.hub.name import parse_hub_name

_ALMOST_A_NAME = re.compile(r"[^/]+$|https?://|hf://|hf\.co/|huggingface\.co/")
"""A name without its organization, or with the address of the hub."""


def locate(model: str, source: ModelSource, *, weights: bool, report: Report) -> tuple[Path, str]:
    """Return (folder or GGUF file, served name) for a path or a name on the hub; a path that exists wins.

    weights: False for a model with random weights. Raises ValueError, in one line.
    """
    path = Path(model).expanduser()
    if path.exists():
        if source.revision:
            raise ValueError(f"--revision {source.revision} belongs to a model of the hub; {model} is a path here")
        return _model_in(path).absolute(), path.resolve().name
    name = parse_hub_name(model, source.revision)
    if name is None:
        raise ValueError(
            f"there is no {model!r}: looked for a folder with config.json or a GGUF file at {path.absolute()}"
            + ("; a model of the hub is named ORG/NAME" if _ALMOST_A_NAME.match(model) else "")
        )
    try:
        found = find_on_hub(name, cache=source.download_dir, weights=weights, report=report, check=_check_settings)
    except HubError as error:
        raise ValueError(f"{error}; and there is no path {model} here") from None
    return found, model.removeprefix("hf://")


def _check_settings(folder: Path) -> None:
    """Check that the model is supported before its weights are downloaded. Raises ValueError."""
    from gllm.checkpoint.hf_folder import read_tokenizer_json
    from gllm.models.families import load_model_config

    load_model_config(folder)
    read_tokenizer_json(folder)


def _model_in(path: Path) -> Path:
    """Return the path itself, or the GGUF file of a folder that has no other model. Raises ValueError."""
    if not path.is_dir() or (path / CONFIG).is_file():
        return path
    names = [found.name for found in path.iterdir() if found.suffix == ".gguf"]
    if not names:
        raise ValueError(no_model_folder(path))
    try:
        return path / needed_files(names, "", lambda name: b"").model
    except ValueError:
        raise ValueError(
            f"the folder {str(path)!r} has several GGUF files: name one, such as {path / min(names)}"
        ) from None
