"""Maps the names in GGUF's `tokenizer.ggml.pre` to pre-tokenizers of the library `tokenizers`.

GGUF stores a vocabulary and merges, but only the name of the rule that splits text before BPE. The patterns are those
of the original Hugging Face tokenizer behind each name.
"""

from __future__ import annotations

import logging
from typing import Any

_log = logging.getLogger(__name__)

_CL100K_STYLE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}|"
    r" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _CL100K_STYLE.format(digits="{1,3}")
_QWEN2 = _CL100K_STYLE.format(digits="")
_CASED_WORDS = (
    r"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{suffix}|"
    r"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{suffix}|"
    r"\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = _CASED_WORDS.format(suffix="", digits="")
_GPT4O = _CASED_WORDS.format(suffix="(?i:'s|'t|'re|'ve|'m|'ll|'d)?", digits="{1,3}")
_DEEPSEEK3_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Letters with case, without the scripts and styles that Unicode added later or that are not used for words.
_CASED = (
    "[[\\p{Lu}\\p{Ll}\\p{Lt}]&&[^\u0560-\u0588\u10c7-\u10ff\u1c80-\u1c8f\u2d00-\u2d2f\ua790-\ua7ff\uab30-\uab6f"
    "\U00010570-\U000105ff\U00016e40-\U00016e7f\U0001d400-\U0001d7ff\U0001df00-\U0001dfff]]"
)
_SEED_CODER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_DIGITS = {"type": "Digits", "individual_digits": True}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    """Return a step that maps bytes to printable characters; with `use_regex` it first splits by GPT-2's pattern."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_GPT2_SPLIT = [_byte_level(use_regex=True)]
_STARCODER_SPLIT = [_DIGITS, _byte_level(use_regex=True)]
_LLAMA3_SPLIT = [_split(_LLAMA3), _byte_level(use_regex=False)]
_QWEN2_SPLIT = [_split(_QWEN2), _byte_level(use_regex=False)]
_TEKKEN_SPLIT = [_split(_TEKKEN), _byte_level(use_regex=False)]
_GPT4O_SPLIT = [_split(_GPT4O), _byte_level(use_regex=False)]
_DEEPSEEK_CODER_SPLIT = [
    _split(r"[\r\n]"),
    _split(r"\s?\p{L}+"),
    _split(r"\s?\p{P}+"),
    _split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
    _DIGITS,
    _byte_level(use_regex=False),
]
_DEEPSEEK3_SPLIT = [
    _split(r"\p{N}{1,3}"),
    _split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
    _split(_DEEPSEEK3_WORDS),
    _byte_level(use_regex=False),
]

_DEEPSEEK_LLM_SPLIT = [
    _split(r"[\r\n]"),
    _split(rf"\s?{_CASED}+"),
    _split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
    _split(r"\s+$"),
    _split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
    _DIGITS,
    _byte_level(use_regex=False),
]
_FALCON_SPLIT = [
    {"type": "Punctuation", "behavior": "Contiguous"},
    _byte_level(use_regex=True),
    {"type": "Digits", "individual_digits": False},
    _split("[0-9][0-9][0-9]"),
]

_STEPS: dict[str, list[dict[str, Any]]] = {
    **dict.fromkeys(("default", "gpt-2", "phi-2", "olmo", "mpt", "trillion", "mellum", "a.x-4.0"), _GPT2_SPLIT),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _STARCODER_SPLIT
    ),
    **dict.fromkeys(
        ("llama3", "llama-v3", "llama-bpe", "falcon3", "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _LLAMA3_SPLIT
    ),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"), _QWEN2_SPLIT),
    "tekken": _TEKKEN_SPLIT,
    "gpt-4o": _GPT4O_SPLIT,
    "deepseek-coder": _DEEPSEEK_CODER_SPLIT,
    "deepseek-v3": _DEEPSEEK3_SPLIT,
    "deepseek-llm": _DEEPSEEK_LLM_SPLIT,
    "falcon": _FALCON_SPLIT,
    "seed-coder": [_split(_SEED_CODER), _byte_level(use_regex=False)],
}
# Vocabularies in the style of tiktoken look up a whole piece before they merge.
IGNORES_MERGES = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "tekken"})
ADDS_BOS = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "tekken"})
NORMALIZES_NFC = frozenset({"qwen2", "deepseek-r1-qwen", "megrez"})

# Files made before May 2024 do not name the rule. A token with its id identifies these vocabularies.
_IDENTIFYING_TOKENS = {
    "llama-bpe": (128000, "<|begin_of_text|>"),
    "qwen2": (151644, "<|im_start|>"),
    "deepseek-llm": (100000, "<\uff5cbegin\u2581of\u2581sentence\uff5c>"),
    "deepseek-coder": (32013, "<\uff5cbegin\u2581of\u2581sentence\uff5c>"),
}


def pretokenizer_name(name: str | None, tokens: list[str]) -> str:
    """Return `name` (of `tokenizer.ggml.pre`); if it is None or "default", the rule of the vocabulary.

    A vocabulary that is not known gets the rule "default", with a warning.
    """
    if name not in (None, "default"):
        return name
    for known, (index, token) in _IDENTIFYING_TOKENS.items():
        if index < len(tokens) and tokens[index] == token:
            return known
    _log.warning(
        "the GGUF file does not say how its tokenizer splits text (tokenizer.ggml.pre is %s): GPT-2's rule is used. "
        "If the model was trained otherwise, numbers and white space become other tokens and answers get worse; "
        "convert the model with a current converter, or serve its Hugging Face folder",
        "missing" if name is None else repr(name),
    )
    return "default"


def byte_level_pretokenizer(name: str) -> dict[str, Any]:
    """Return the `pre_tokenizer` section of a tokenizer.json for a name in `tokenizer.ggml.pre`. Raises ValueError."""
    if name not in _STEPS:
        raise ValueError(
            f"unknown pre-tokenizer {name!r} (tokenizer.ggml.pre); known: {', '.join(sorted(_STEPS))}. "
            "Serve the Hugging Face folder of the model, whose tokenizer.json has the rule itself"
        )
    return {"type": "Sequence", "pretokenizers": _STEPS[name]}
