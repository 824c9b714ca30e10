"""The tokens that end a generation, for real layouts of folders and GGUF headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gllm.text.vocabulary.eos import folder_eos_ids, gguf_eos_ids

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LLAMA3 = "{{ bos_token }}{{ messages[0].content }}{{ '<|eot_id|>' }}"


def added(token: int, content: str, special: bool = True) -> dict[str, Any]:
    return {"id": token, "content": content, "special": special, "normalized": False}


TEXT, IM_START, IM_END = added(10, "<|endoftext|>"), added(11, "<|im_start|>"), added(12, "<|im_end|>")
QWEN = {"added_tokens": [TEXT, IM_START, IM_END, added(13, "<|fim_end|>")], "model": {"type": "BPE", "vocab": {"a": 1}}}


def folder_of(path: Path, **files: Any) -> Path:
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # A ChatML fine-tune: the configs still name the base model's token.
        ({"config": {"eos_token_id": 10}, "tokenizer_config": {"eos_token": "<|im_end|>"}}, (10, 12)),
        ({"config": {}, "tokenizer_config": {"eos_token": {"content": "<|im_end|>", "lstrip": False}}}, (12,)),
        ({"config": {}, "special_tokens_map": {"eos_token": {"content": "<|im_end|>"}}}, (12,)),
        (
            {
                "config": {},
                "special_tokens_map": {"eos_token": "<|im_end|>"},
                "tokenizer_config": {"eos_token": None},
            },
            (12,),
        ),
        ({"config": {"eos_token_id": 10}, "generation_config": {"eos_token_id": [12, 10]}}, (12, 10)),
        ({"config": {"text_config": {"eos_token_id": [7]}, "eos_token_id": None}}, (7,)),
        ({"config": {"eos_token_id": [10, 99], "vocab_size": 64}}, (10,)),
        # eos_token in the vocabulary only, or listed by tokenizer_config.json only.
        ({"config": {}, "tokenizer_config": {"eos_token": "a"}}, (1,)),
        (
            {
                "config": {},
                "tokenizer_config": {"eos_token": "<x>", "added_tokens_decoder": {"20": {"content": "<x>"}}},
            },
            (20,),
        ),
        ({"config": {}, "tokenizer_config": {"eos_token": "nowhere"}}, ()),
        # Only the end of text is named, and the template ends turns with another special token.
        ({"config": {"eos_token_id": 10}, "tokenizer_config": {"chat_template": CHATML}}, (10, 12)),
        # A base model has no template, or another.
        ({"config": {"eos_token_id": 10}, "tokenizer_config": {"eos_token": "<|endoftext|>"}}, (10,)),
        ({"config": {"eos_token_id": 10}, "tokenizer_config": {"chat_template": LLAMA3}}, (10,)),
    ],
)
def test_a_folder(tmp_path: Path, files: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert folder_eos_ids(folder_of(tmp_path, tokenizer=QWEN, **files)) == expected


def test_a_unigram_vocabulary_and_none_at_all(tmp_path: Path) -> None:
    folder_of(tmp_path, config={"eos_token_id": 3}, tokenizer_config={"eos_token": "</s>"})
    assert folder_eos_ids(tmp_path) == (3,)
    folder_of(tmp_path, tokenizer={"model": {"type": "Unigram", "vocab": [["<unk>", 0], ["</s>", -1.5]]}})
    assert folder_eos_ids(tmp_path) == (3, 1)


def test_a_turn_token_that_is_not_special_is_text(tmp_path: Path) -> None:
    tokenizer = {"added_tokens": [TEXT, added(12, "<|im_end|>", special=False)]}
    folder_of(tmp_path, config={"eos_token_id": 10}, tokenizer_config={"chat_template": CHATML}, tokenizer=tokenizer)
    assert folder_eos_ids(tmp_path) == (10,)


@pytest.mark.parametrize("value", ["</s>", -1, True, [1, "2"], 1.5])
def test_a_wrong_id_names_file_and_key(tmp_path: Path, value: Any) -> None:
    folder_of(tmp_path, config={}, generation_config={"eos_token_id": value})
    with pytest.raises(ValueError, match=r"generation_config\.json: eos_token_id must be a token id"):
        folder_eos_ids(tmp_path)


NORMAL, CONTROL = 1, 3


def header(tokens: dict[str, int], **ids: int) -> dict[str, Any]:
    return {
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": list(tokens.values()),
        **{f"tokenizer.ggml.{name}_token_id": token for name, token in ids.items()},
    }


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (header({"a": NORMAL, "b": NORMAL, "c": NORMAL}, eos=0, eot=1, eom=2), (0, 1, 2)),
        (header({"a": NORMAL}, eos=0, eot=7), (0,)),
        ({"tokenizer.ggml.eos_token_id": 5}, (5,)),
        # Llama 3 of April 2024: the header names the end of text alone.
        (
            header(
                {
                    "<|begin_of_text|>": CONTROL,
                    "<|end_of_text|>": CONTROL,
                    "<|eot_id|>": CONTROL,
                    "<|start_header_id|>": CONTROL,
                    "<|eom_id|>": CONTROL,
                },
                bos=0,
                eos=1,
            ),
            (1, 2, 4),
        ),
        (header({"</s>": CONTROL, "<|im_start|>": CONTROL, "<|im_end|>": CONTROL}, eos=0), (0, 2)),
        (header({"<|im_end|>": CONTROL, "<|endoftext|>": CONTROL}, eos=0), (0,)),
        (header({"<|eot_id|>": CONTROL, "<|end_of_text|>": CONTROL, "<|eom_id|>": CONTROL}, eos=0), (0, 2)),
        # A token with such a name that is ordinary text, and tokens for filling in the middle.
        (header({"x": CONTROL, "<|im_end|>": NORMAL, "<|fim_end|>": CONTROL, "<EOT>": CONTROL}, eos=0), (0,)),
    ],
)
def test_a_gguf_header(metadata: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert gguf_eos_ids(metadata) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(["<s>", "</s>"], (1,)), (["a", "<|endoftext|>", "<|im_end|>"], (1, 2)), (["a", "b"], ())],
)
def test_a_gguf_header_without_ids(tokens: list[str], expected: tuple[int, ...]) -> None:
    types = [3] * len(tokens)
    assert gguf_eos_ids({"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}) == expected
