"""Detects common accidents of a download, and says how to repair them."""

from __future__ import annotations

import json
from pathlib import Path

_HEAD_BYTES = 512
_MESSAGE_BYTES = 4096
"""Error texts that a download leaves in place of a file are shorter than this; weights and tokenizers are longer."""


def wrong_content(path: Path) -> str:
    """Return a description of content that does not fit the file's name, with the remedy; empty: no known accident."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return ""
    start = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "it is a git-lfs pointer in place of the file: run `git lfs pull` in the repository"
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "it is a web page in place of the file: download it again, with a token if the model is gated"
    if not head:
        return "it is empty: download it again"
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return ""
    if size <= _MESSAGE_BYTES and text.isprintable() and not start.startswith((b"{", b"[", b"gguf")):
        return f"it holds the text {text[:60]!r} in place of the file: download it again"
    return ""


def no_model_folder(folder: Path) -> str:
    """Return the error message for a folder without config.json: what the folder is instead, and the remedy."""
    snapshots = sorted(path for path in folder.glob("snapshots/*") if (path / "config.json").exists())
    if snapshots:
        return f"{folder} is a folder of the Hugging Face cache: name the snapshot in it, {snapshots[-1]}"
    if (folder / "adapter_config.json").is_file():
        base = _base_model(folder / "adapter_config.json")
        return (
            f"{folder} has no config.json but an adapter_config.json: it is an adapter (LoRA){base}, not a model; "
            "merge it into its base model (merge_and_unload of peft) and serve the result"
        )
    if (folder / "params.json").is_file():
        return (
            f"{folder} has no config.json but a params.json: it is a model in the layout of its authors; "
            "serve the repository's Hugging Face files (config.json, model*.safetensors)"
        )
    if (folder / "model_index.json").is_file():
        return f"{folder} has no config.json but a model_index.json: it is a diffusers pipeline, not a language model"
    files = sorted(folder.glob("*.gguf"))
    hint = f"; for its GGUF give the file, {files[0]}" if files else ""
    return f"{folder} has no config.json: it is not a Hugging Face model folder{hint}"


def _base_model(path: Path) -> str:
    try:
        name = json.loads(path.read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return f" for {name}" if isinstance(name, str) and name else ""
