"""The files of a Hugging Face model folder beside its weights: JSON objects, tokenizer settings, chat templates.

They are read without transformers, which imports torch: gateway and engine read them too and must start without torch.
Import and use of AutoConfig take 3.7 s of CPU time (transformers 5.24).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gllm.checkpoint.wrong_files import no_model_folder, wrong_content

DEFAULT_TEMPLATE = "default"
TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""transformers' names of the special tokens."""


def read_tokenizer_json(folder: Path) -> str:
    """Return the text of tokenizer.json. Raises ValueError, which says how to make the file if it is missing."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        if list(folder.glob("tokenization_*.py")):
            # ChatGLM2, ChatGLM3 and the first GLM-4 come with tokenizer.model and a Python class around it.
            raise ValueError(
                f"{folder} has no tokenizer.json but a tokenizer in Python, and code from a model folder is never run: "
                "put a converted tokenizer.json there (for GLM-4-9B that of zai-org/glm-4-9b-chat-hf)"
            )
        convert = (
            f"python -c \"from transformers import AutoTokenizer as T; T.from_pretrained('{folder}')"
            f".save_pretrained('{folder}')\""
        )
        if (folder / "tokenizer.model").is_file():
            # Transformers 5 makes a tokenizer.json that splits text differently from SentencePiece.
            raise ValueError(
                f"{folder} has no tokenizer.json but a SentencePiece tokenizer.model. Take tokenizer.json from the "
                "model's page on the hub or from a model with the same tokenizer. Or make it with transformers 4 in an "
                f"environment of its own: pip install 'transformers<5' sentencepiece protobuf, then {convert}"
            )
        raise ValueError(f"{folder} has no tokenizer.json. Make one from the model's slow tokenizer with: {convert}")
    problem = wrong_content(path)
    if problem:
        raise ValueError(f"{path} cannot be read, {problem}")
    return path.read_text(encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the object in config.json. Raises ValueError, which says what a folder without config.json is."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(no_model_folder(folder))
    return read_json_object(path)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if the file does not exist. Raises ValueError, which names the file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {wrong_content(path) or error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return value


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """Return tokenizer_config.json over the older special_tokens_map.json; null in the newer file counts as absent."""
    older, newer = (read_json_object(folder / name) for name in ("special_tokens_map.json", "tokenizer_config.json"))
    return older | {key: value for key, value in newer.items() if value is not None}


def token_string(setting: Any) -> str | None:
    """Return the text of a special token, which is a string or a serialised AddedToken in the file."""
    if isinstance(setting, dict):
        setting = setting.get("content")
    return setting if isinstance(setting, str) and setting else None


def named_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """Return the special tokens by their names in chat templates: `pad_token`, ..., and a model's own names."""
    extra = settings.get("extra_special_tokens")
    named = {name: settings.get(name) for name in TOKEN_NAMES} | (extra if isinstance(extra, dict) else {})
    return {name: token for name, setting in named.items() if (token := token_string(setting)) is not None}


def listed_tokens(settings: dict[str, Any]) -> list[tuple[int, str, bool]]:
    """Return (id, spelling, whether special) of the added tokens that tokenizer_config.json lists."""
    listed = settings.get("added_tokens_decoder")
    if not isinstance(listed, dict):
        return []
    return [
        (int(token), entry["content"], bool(entry.get("special")))
        for token, entry in listed.items()
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and token.isdecimal()
    ]


def chat_templates(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Return the templates by name; a single one is called "default". Files win over tokenizer_config.json."""
    templates: dict[str, str] = {}
    for source in (read_json_object(folder / "chat_template.json"), settings):
        inline = source.get("chat_template")
        if isinstance(inline, str):
            templates[DEFAULT_TEMPLATE] = inline
        elif isinstance(inline, list):
            templates |= {entry["name"]: entry["template"] for entry in inline}
        elif isinstance(inline, dict):
            templates |= inline
    single = folder / "chat_template.jinja"
    if single.is_file():
        templates[DEFAULT_TEMPLATE] = single.read_text(encoding="utf-8")
    for subfolder in ("additional_chat_templates", "chat_templates"):
        for path in sorted((folder / subfolder).glob("*.jinja")):
            templates[path.stem] = path.read_text(encoding="utf-8")
    return templates
