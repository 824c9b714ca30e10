"""Strings to token ids and back, for Hugging Face folders and GGUF files.

This is the library `tokenizers` without transformers, which imports torch. Gateway and engine must start without torch,
and the workers must read the same tokens. Import and load of AutoTokenizer take 3.9 s of CPU time and 350 MB of memory;
import and load of this module take 0.3 s and 70 MB (transformers 5.24, SmolLM2's vocabulary of 49152 tokens).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers

from gllm.checkpoint import hf_folder
from gllm.text.templates.literal_text import LiteralEncoder, RenderedPrompt, SpecialSpellings, spell_specials
from gllm.text.vocabulary.eos import folder_eos_ids, gguf_eos_ids
from gllm.text.vocabulary.gguf_vocabulary import special_token_id, tokenizer_json_from_gguf
from gllm.text.vocabulary.token_bytes import token_table

_GGUF_NAMES = {"unk_token": "unknown", "pad_token": "padding", "sep_token": "seperator", "mask_token": "mask"}
"""transformers' names to GGUF's names, in GGUF's own spelling."""
_CONTROL_LIKE = re.compile("<[|\uff5c].*[|\uff5c]>")
"""Spelling of tokens that structure a prompt. Some tokenizers, such as DeepSeek's, do not mark all of them special."""


def load_tokenizer(model_path: Path | str) -> Tokenizer:
    """Return the tokenizer of a Hugging Face folder or of a GGUF file.

    Raises ValueError if there is none, or if its kind is not supported.
    """
    path = Path(model_path)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return _from_gguf(path)
    raise ValueError(f"model: {path} does not exist; give a Hugging Face folder or a GGUF file")


class TooManyTokensError(ValueError):
    """A text has more tokens than the caller allows: `count`."""

    def __init__(self, count: int) -> None:
        super().__init__(f"the text has {count} tokens")
        self.count = count


class Tokenizer:
    """Immutable and safe to share between threads.

    The post-processor of tokenizer.json decides whether BOS and EOS are added; as in transformers 5, `add_bos_token` in
    tokenizer_config.json does not. A GGUF file has an `add_bos_token` of its own.

    `encode` turns special tokens that the text spells into their ids, as Hugging Face does, unless a `RenderedPrompt`
    marks them as text. A rendered chat template has its BOS already: encode it with
    `add_special_tokens=False`.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        eos_token_ids: Iterable[int] | None = None,
        named_tokens: dict[str, str] | None = None,
        chat_templates: dict[str, str] | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.bos_token = bos_token
        self.eos_token = eos_token
        own_eos = backend.token_to_id(eos_token) if eos_token else None
        if eos_token_ids is None:
            eos_token_ids = [] if own_eos is None else [own_eos]
        self.eos_token_ids: tuple[int, ...] = tuple(eos_token_ids)
        """Any of these ends a generation, as `gllm.text.vocabulary.eos` says; by default `eos_token`."""
        own = {"bos_token": bos_token, "eos_token": eos_token}
        self.named_tokens = {name: token for name, token in own.items() if token is not None} | (named_tokens or {})
        """Special tokens by the names that chat templates use, such as "pad_token"."""
        self.chat_templates = chat_templates or {}
        """Jinja sources by name; the main one is "default"."""

        vocab: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values(), default=-1) + 1
        """One more than the largest id; the model may have more logits."""
        spellings: list[str | None] = [None] * self.vocab_size
        for spelling, token in vocab.items():
            spellings[token] = spelling
        added = backend.get_added_tokens_decoder()
        decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else None
        table = token_table(spellings, {token: entry.content for token, entry in added.items()}, decoder)
        self.token_pieces: list[bytes] = table.pieces
        """`token_pieces[id]`: the bytes that the token adds to the text."""
        self.strip_leading_space = table.strip_leading_space
        self.special_token_ids: frozenset[int] = frozenset(token for token, entry in added.items() if entry.special)
        guarded = [entry.content for entry in added.values() if entry.special or _CONTROL_LIKE.fullmatch(entry.content)]
        self.special_spellings = SpecialSpellings(guarded)
        """Spellings of tokens that structure a prompt: special tokens, and added tokens that are spelled like them."""
        self._literal = cache(lambda: LiteralEncoder(backend, guarded))

    def encode(self, text: str, add_special_tokens: bool = True, *, max_tokens: int | None = None) -> list[int]:
        """Return the token ids. `add_special_tokens` adds BOS (EOS) where the model needs it.

        Raises TooManyTokensError beyond `max_tokens`, ValueError for lone surrogates.
        """
        _check_encodable(text)
        literal = None
        if isinstance(text, RenderedPrompt) and text.literal_at:
            spelled = spell_specials(text, self.special_spellings)
            if spelled is not None:
                text, literal = spelled, self._literal()
        backend = self._backend if literal is None else literal.backend
        # The library releases the interpreter lock for batches only, and a long text takes seconds.
        encoding = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]
        if max_tokens is not None and len(encoding) > max_tokens:
            # This comes before the list of ids is built, because that takes the lock again.
            raise TooManyTokensError(len(encoding))
        ids: list[int] = encoding.ids
        return ids if literal is None else literal.model_ids(ids)

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Return the text of the ids. Bytes that are not UTF-8 become U+FFFD; ids beyond the vocabulary add nothing."""
        special = self.special_token_ids if skip_special_tokens else frozenset[int]()
        data = b"".join([self.token_bytes(token) for token in token_ids if token not in special])
        if self.strip_leading_space:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that one token adds to the text; empty for an id beyond the vocabulary."""
        return self.token_pieces[token_id] if 0 <= token_id < self.vocab_size else b""

    def token_text(self, token_id: int) -> str:
        """Return `token_bytes` as text, for logprobs; a part of a character becomes U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def spelling(self, token_id: int) -> str:
        """Return a token as the vocabulary spells it, for example "Ġis"; empty for an id beyond the vocabulary."""
        found: str | None = self._backend.id_to_token(token_id)
        return found or ""

    def token_id(self, token: str) -> int | None:
        """Return the id of a token by its spelling, for example of a special token; None if the vocabulary lacks it."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def to_json(self) -> str:
        """Return the content of a tokenizer.json."""
        text: str = self._backend.to_str()
        return text


def _check_encodable(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text has half of a surrogate pair at character {error.start}; send whole ones") from None


def _from_folder(folder: Path) -> Tokenizer:
    text = hf_folder.read_tokenizer_json(folder)
    settings = hf_folder.tokenizer_settings(folder)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
    bos, eos = (hf_folder.token_string(settings.get(name)) for name in ("bos_token", "eos_token"))
    _add_missing_tokens(backend, settings)
    return Tokenizer(
        backend,
        bos_token=bos,
        eos_token=eos,
        eos_token_ids=folder_eos_ids(folder),
        named_tokens=hf_folder.named_tokens(settings),
        chat_templates=hf_folder.chat_templates(folder, settings),
    )


def _add_missing_tokens(backend: tokenizers.Tokenizer, settings: dict[str, Any]) -> None:
    """Add the tokens of tokenizer_config.json that tokenizer.json lacks or does not mark as special."""
    present = backend.get_added_tokens_decoder()
    fields = ("single_word", "lstrip", "rstrip", "normalized", "special")
    listed = sorted((settings.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0]))
    for token, entry in listed:
        if int(token) not in present and isinstance(entry, dict):
            flags = {field: entry[field] for field in fields if field in entry}
            backend.add_tokens([tokenizers.AddedToken(entry["content"], **flags)])
    extra = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    named = [settings.get(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")]
    specials = {entry.content for entry in backend.get_added_tokens_decoder().values() if entry.special}
    for setting in [*named, *(extra.values() if isinstance(extra, dict) else extra)]:
        content = hf_folder.token_string(setting)
        if content and content not in specials:
            backend.add_special_tokens([tokenizers.AddedToken(content, normalized=False, special=True)])
            specials.add(content)


def _from_gguf(path: Path) -> Tokenizer:
    from gllm.checkpoint.gguf_file import GGUFFile  # NumPy and gguf, which a folder's tokenizer does without

    metadata = GGUFFile(path).metadata
    content = tokenizer_json_from_gguf(metadata)
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path} has a damaged vocabulary: {error}") from error
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {name: special_token_id(metadata, name) for name in ("bos", "eos")}
    named = {
        key.rpartition(".")[2]: value
        for key, value in metadata.items()
        if key.startswith("tokenizer.chat_template.") and isinstance(value, str)
    }
    main = metadata.get("tokenizer.chat_template")
    templates = named | ({hf_folder.DEFAULT_TEMPLATE: main} if isinstance(main, str) else {})
    return Tokenizer(
        backend,
        bos_token=None if ids["bos"] is None else tokens[ids["bos"]],
        eos_token=None if ids["eos"] is None else tokens[ids["eos"]],
        eos_token_ids=gguf_eos_ids(metadata),
        named_tokens={
            name: tokens[token]
            for name, key in _GGUF_NAMES.items()
            if (token := special_token_id(metadata, key)) is not None
        },
        chat_templates=templates,
    )
