"""The tokens that end a generation, for the engine and for grammars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gllm.checkpoint import hf_folder
from gllm.checkpoint.fields import Fields
from gllm.text.vocabulary.gguf_vocabulary import CONTROL

_END_OF_MESSAGE = "<|eom_id|>"
END_OF_TURN = frozenset(
    {
        _END_OF_MESSAGE,
        "<|im_end|>",
        "<|eot_id|>",
        "<|end|>",
        "<|end_of_turn|>",
        "<end_of_turn>",
        "<turn|>",
        "<|eot|>",
        "<|EOT|>",
        "<end_of_utterance>",
    }
)
"""Spellings of the token that ends a turn."""
_END_OF_TEXT = frozenset({"</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<｜end▁of▁sentence｜>"})  # noqa: RUF001


class _AddedToken(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]] = {}


class _TokenizerFile(msgspec.Struct):
    """The fields that are read from a tokenizer.json. The vocabulary is decoded when it is needed."""

    added_tokens: list[_AddedToken] = []
    model: msgspec.Raw = msgspec.Raw(b"{}")


def folder_eos_ids(folder: Path) -> tuple[int, ...]:
    """Return the union of `eos_token_id` in generation_config.json and config.json with the tokenizer's `eos_token`.

    If none of these ends a turn, the special tokens of END_OF_TURN that the chat template writes are added. Raises
    ValueError that names the file.
    """
    ids: list[int] = []
    vocab_size: int | None = None
    for name in ("generation_config.json", "config.json"):
        values = hf_folder.read_json_object(folder / name)
        for part in (values, values.get("text_config")):
            if isinstance(part, dict):
                ids += Fields(part, str(folder / name)).token_ids("eos_token_id")
                vocab_size = part.get("vocab_size", vocab_size)
    settings = hf_folder.tokenizer_settings(folder)
    tokenizer = _read_tokenizer(folder)
    added = {token: _AddedToken(token, text, special) for token, text, special in hf_folder.listed_tokens(settings)}
    added |= {entry.id: entry for entry in tokenizer.added_tokens}
    eos = hf_folder.token_string(settings.get("eos_token"))
    if eos is not None:
        own = next((entry.id for entry in added.values() if entry.content == eos), None)
        own = _vocabulary_id(eos, tokenizer) if own is None else own
        ids += [] if own is None else [own]
    if not any(token in added and added[token].content in END_OF_TURN for token in ids):
        templates = "".join(hf_folder.chat_templates(folder, settings).values())
        ids += [
            entry.id
            for entry in added.values()
            if entry.special and entry.content in END_OF_TURN and entry.content in templates
        ]
    # Some configs name tokens that the model does not have.
    return tuple(token for token in dict.fromkeys(ids) if not isinstance(vocab_size, int) or token < vocab_size)


def gguf_eos_ids(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the `eos`, `eot` and `eom` ids of a GGUF header.

    Headers of early 2024 have the end of the text only: if none of these ids ends a turn, the control tokens of
    END_OF_TURN are added. `<|eom_id|>`, which converters seldom name, is always added. For headers without any id, the
    control tokens that are spelled as the end of a turn or of the text are taken.
    """
    tokens = metadata.get("tokenizer.ggml.tokens") or []
    types = metadata.get("tokenizer.ggml.token_type") or []
    values = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    named = [token for token in values if isinstance(token, int) and (token < len(tokens) or not tokens)]
    names_turn = any(tokens[token] in END_OF_TURN for token in named if tokens)
    spellings = {_END_OF_MESSAGE} if names_turn else END_OF_TURN if named else END_OF_TURN | _END_OF_TEXT
    spelled = [
        token
        for token, (text, kind) in enumerate(zip(tokens, types, strict=False))
        if kind == CONTROL and text in spellings
    ]
    return tuple(dict.fromkeys(named + spelled))


def _read_tokenizer(folder: Path) -> _TokenizerFile:
    path = folder / "tokenizer.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=_TokenizerFile) if path.is_file() else _TokenizerFile()
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _vocabulary_id(spelling: str, tokenizer: _TokenizerFile) -> int | None:
    try:
        vocab = msgspec.json.decode(tokenizer.model, type=_Model).vocab
    except msgspec.ValidationError:  # of a kind that `load_tokenizer` refuses
        return None
    if isinstance(vocab, dict):
        return vocab.get(spelling)
    return next((index for index, (piece, _) in enumerate(vocab) if piece == spelling), None)
