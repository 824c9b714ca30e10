from __future__ import annotations

import itertools
import json
import random
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gllm.text.output.detokenizer import TextStream
from gllm.text.tokenizer import Tokenizer, TooManyTokensError, load_tokenizer
from gllm.text.vocabulary.gguf_vocabulary import tokenizer_json_from_gguf

TEXTS = [
    "",
    "Hello world",
    "it's I'LL don't",
    "caf\u00e9 na\u00efve \u00fcber",
    "\u65e5\u672c\u8a9e \u30c6\u30b9\u30c8 \u4f60\u597d \ud55c\uad6d\uc5b4",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "def f(x):\n\t\treturn  x + 1\n\n\n",
    " \t\r\n  x ",
    "\x00\x01\u00ff\ufeff",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_start|><|endoftext|> <file_sep>x",
    "2025-11-23, 12345.678 and 1e10",
]
# Two spaces before a digit, or digits next to letters of other scripts: here transformers' reading of the GGUF loses
# the digit-splitting step of SmolLM2's own tokenizer.json.
DIGIT_TEXTS = ["  12 345 a", "\u00bd \u00b2 \u0663 123", "x\n\n  42"]


@pytest.fixture(scope="module")
def original(reference: Any) -> Any:
    """SmolLM2's published pipeline: digits one by one, then GPT-2's byte-level split."""
    backend = tokenizers.Tokenizer.from_str(reference.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("text", TEXTS)
def test_smollm_equals_transformers(smollm: Tokenizer, reference: Any, text: str) -> None:
    ids = smollm.encode(text)
    assert ids == reference.encode(text)
    for skip in (True, False):
        assert smollm.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("text", TEXTS + DIGIT_TEXTS)
def test_smollm_equals_the_original_pipeline(smollm: Tokenizer, original: Any, text: str) -> None:
    assert smollm.encode(text) == original.encode(text)


@settings(max_examples=100)
@given(text=st.text(max_size=60))
def test_smollm_equals_the_original_on_any_text(smollm: Tokenizer, original: Any, text: str) -> None:
    ids = smollm.encode(text)
    assert ids == original.encode(text)
    assert smollm.decode(ids, False) == original.decode(ids, skip_special_tokens=False)


@settings(max_examples=100)
@given(data=st.data())
def test_decode_of_any_ids_equals_transformers(smollm: Tokenizer, reference: Any, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, smollm.vocab_size - 1), max_size=30))
    assert smollm.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_smollm_special_tokens(smollm: Tokenizer) -> None:
    assert (smollm.bos_token, smollm.eos_token, smollm.eos_token_ids) == ("<|im_start|>", "<|im_end|>", (2,))
    assert smollm.vocab_size == 49152
    assert smollm.special_token_ids == frozenset(range(17))
    assert smollm.token_bytes(2) == b"<|im_end|>"
    assert "im_start" in smollm.chat_templates["default"]


def test_token_bytes_are_the_text(smollm: Tokenizer) -> None:
    text = "na\u00efve \u65e5\u672c \U0001f600"
    assert b"".join(map(smollm.token_bytes, smollm.encode(text))) == text.encode()
    assert smollm.token_text(smollm.encode(" the")[0]) == " the"


def test_too_many_tokens_are_counted(smollm: Tokenizer) -> None:
    count = len(smollm.encode(TEXTS[0]))
    assert len(smollm.encode(TEXTS[0], max_tokens=count)) == count
    with pytest.raises(TooManyTokensError) as error:
        smollm.encode(TEXTS[0], max_tokens=count - 1)
    assert error.value.count == count


def test_encoding_lets_other_threads_run(smollm: Tokenizer) -> None:
    """Encoding releases the interpreter lock: this thread runs while another one encodes a long text."""
    encoding = threading.Thread(target=smollm.encode, args=("1" * 400_000,))
    turns = 0
    encoding.start()
    while encoding.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns > 20


def test_lone_surrogates_are_refused(smollm: Tokenizer) -> None:
    with pytest.raises(ValueError, match="surrogate pair at character 1"):
        smollm.encode("a\ud800")


# --- SentencePiece ---------------------------------------------------------------------------------


def best_score_merges(text: str, score: dict[str, float]) -> list[str]:
    """SentencePiece's own rule, naively: merge the adjacent pair whose union scores best, leftmost first."""
    parts = list(text)
    while True:
        pairs = [(-score[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in score]
        if not pairs:
            break
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [piece for part in parts for piece in ([part] if part in score else [f"<0x{b:02X}>" for b in part.encode()])]


@settings(max_examples=150)
@given(text=st.text(alphabet="helowrdtn a,\u00e9\U0001f600", max_size=30))
def test_sentencepiece_equals_the_naive_rule(
    sentencepiece: Tokenizer, sentencepiece_scores: dict[str, float], text: str
) -> None:
    spelled = ("\u2581" + text.replace(" ", "\u2581")) if text else ""
    expected = [sentencepiece.token_id(piece) for piece in best_score_merges(spelled, sentencepiece_scores)]
    assert sentencepiece.encode(text, add_special_tokens=False) == expected
    assert sentencepiece.encode(text) == [1, *expected]
    assert sentencepiece.decode(expected) == text  # type: ignore[arg-type]  # every piece is in the vocabulary


def test_sentencepiece_special_and_user_tokens(sentencepiece: Tokenizer) -> None:
    ids = sentencepiece.encode("<s>hello<tool></s>", add_special_tokens=False)
    tool = sentencepiece.token_id("<tool>")
    assert ids[0] == 1
    assert ids[-2:] == [tool, 2]
    assert sentencepiece.decode(ids) == "hello<tool>"
    assert sentencepiece.special_token_ids == {1, 2}


LLAMA_STEPS = [
    tokenizers.decoders.Replace("\u2581", " "),
    tokenizers.decoders.ByteFallback(),
    tokenizers.decoders.Fuse(),
]


@pytest.mark.parametrize(
    "decoder",
    [
        tokenizers.decoders.Sequence(LLAMA_STEPS),
        tokenizers.decoders.Sequence([*LLAMA_STEPS, tokenizers.decoders.Strip(" ", 1, 0)]),
        tokenizers.decoders.Metaspace(prepend_scheme="never"),
    ],
)
def test_sentencepiece_decoders_equal_the_library(sentencepiece: Tokenizer, decoder: Any) -> None:
    backend = tokenizers.Tokenizer.from_str(sentencepiece.to_json())
    backend.decoder = decoder
    loaded = Tokenizer(backend)
    pieces = [token for token in range(sentencepiece.vocab_size) if not 3 <= token < 259]
    rng = random.Random(0)
    for _ in range(300):
        ids = rng.choices([1, 2, *pieces], k=rng.randrange(6))
        for skip in (True, False):
            assert loaded.decode(ids, skip) == backend.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("space", ["\u2581\u2581\u2581\u2581", "\u2581", "\u2581def", "<0x0A>"])
@pytest.mark.parametrize("special", [False, True])
def test_added_tokens_with_sentencepiece_spellings_decode_as_in_the_library(
    sentencepiece: Tokenizer, space: str, special: bool
) -> None:
    """User-defined symbols of SentencePiece become added tokens: Gemma's white space, for example."""
    backend = tokenizers.Tokenizer.from_str(sentencepiece.to_json())
    backend.add_tokens([tokenizers.AddedToken(space, normalized=False, special=special)])
    loaded = Tokenizer(backend)
    token = backend.token_to_id(space)
    hello = backend.encode("hello", add_special_tokens=False).ids
    for ids in ([*hello, token, *hello], [token, *hello], [*hello, token, token]):
        for skip in (True, False):
            expected = backend.decode(ids, skip_special_tokens=skip)
            assert loaded.decode(ids, skip) == expected
            stream = TextStream(loaded, skip_special_tokens=skip)
            assert "".join([stream.feed([token]) for token in ids]) + stream.finish() == expected
    assert "\u2581" not in loaded.decode([*hello, token], False)


# --- GGUF files ------------------------------------------------------------------------------------


def test_gguf_damage_is_a_value_error(tmp_path: Path, sentencepiece_path: Path) -> None:
    whole = sentencepiece_path.read_bytes()
    for size in [*range(4, 60), 1000, len(whole) - 3]:
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is not a readable GGUF file"):
            load_tokenizer(cut)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\3\4....", "does not start with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 8, 2**60), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 4, 2**60), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"a", 99), "unknown value type"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "no vocabulary"),
    ],
)
def test_bad_gguf_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "'bert'"),
        ({"tokenizer.ggml.pre": "nonsense"}, "unknown pre-tokenizer 'nonsense'"),
        ({"tokenizer.ggml.merges": None}, "without merges"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "twice"),
        ({"tokenizer.ggml.model": "llama"}, "without scores"),
    ],
)
def test_unsupported_vocabularies(changes: dict[str, Any], message: str) -> None:
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.merges": []}
    with pytest.raises(ValueError, match=message):
        tokenizer_json_from_gguf(metadata | changes)


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "  12 it's", ["\u0120", "\u012012", "\u0120it", "'s"]),
        ("smollm", "  12 it's", ["\u0120\u0120", "1", "2", "\u0120it", "'s"]),
        ("llama-bpe", "a12345 I'LL", ["a", "123", "45", "\u0120I", "'LL"]),
        ("qwen2", "a12 x\n\ny", ["a", "1", "2", "\u0120x", "\u010a\u010a", "y"]),
        ("tekken", "HelloWorld 12", ["Hello", "World", "\u0120", "1", "2"]),
        ("gpt-4o", "HelloWorld's 1234", ["Hello", "World's", "\u0120", "123", "4"]),
        ("deepseek-coder", "x, 12\n", ["x", ",", "\u0120", "1", "2", "\u010a"]),
        ("deepseek-v3", "a1234 b", ["a", "123", "4", "\u0120b"]),
        (
            "deepseek-llm",
            "a\u00b5 \uff08x\uff09 \u4e2d\u6587 45",
            [
                "a",  # the class of punctuation, from : to ~, has letters in it
                "\u00c2\u00b5",
                "\u0120\u00ef\u00bc\u012a",
                "x",
                "\u00ef\u00bc\u012b",
                "\u0120",
                "\u00e4\u00b8\u0143\u00e6\u0138\u0129",
                "\u0120",
                "4",
                "5",
            ],
        ),
        ("falcon", "a, 12345!?", ["a", ",", "\u0120", "123", "45", "!?"]),
        ("seed-coder", "it's 12;\n\n x", ["it", "'s", "\u0120", "1", "2", ";", "\u010a\u010a", "\u0120x"]),
    ],
)
def test_pre_tokenizers(pre: str, text: str, pieces: list[str]) -> None:
    vocab = sorted(pre_tokenizers.ByteLevel.alphabet())
    content = tokenizer_json_from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": vocab,
            "tokenizer.ggml.merges": [],
        }
    )
    backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    assert [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)] == pieces


@pytest.mark.parametrize(
    ("index", "token", "text", "pieces"),
    [
        (128000, "<|begin_of_text|>", "123456\n\n\tx", ["123", "456", "\u010a\u010a", "\u0109x"]),
        (151644, "<|im_start|>", "12\n\n\tx", ["1", "2", "\u010a\u010a", "\u0109x"]),
        (100000, "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "12 a\n\n", ["1", "2", "\u0120a", "\u010a", "\u010a"]),
        (32013, "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "12 a\n\n", ["1", "2", "\u0120a", "\u010a", "\u010a"]),
        (5, "<|im_start|>", "12\n\n\tx", ["12", "\u010a\u010a", "\u0109", "x"]),
    ],
)
@pytest.mark.parametrize("pre", [None, "default"])
def test_a_missing_pre_tokenizer_name_is_inferred_or_warned_about(
    caplog: pytest.LogCaptureFixture, pre: str | None, index: int, token: str, text: str, pieces: list[str]
) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    filler = (f"[{number}]" for number in itertools.count())
    tokens = [*alphabet, *itertools.islice(filler, max(0, index - len(alphabet)))]
    tokens[index:index] = [token]
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": []}
    content = tokenizer_json_from_gguf(metadata if pre is None else metadata | {"tokenizer.ggml.pre": pre})
    backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    assert [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)] == pieces
    warned = "tokenizer.ggml.pre is" in caplog.text
    assert warned == (index == 5)


def test_gguf_bos_rules(smollm: Tokenizer) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [*alphabet, "<bos>", "<eos>"],
        "tokenizer.ggml.token_type": [1] * len(alphabet) + [3, 3],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
    }
    for extra, expected in (
        ({}, [256, 64]),
        ({"tokenizer.ggml.add_bos_token": False}, [64]),
        ({"tokenizer.ggml.add_eos_token": True}, [256, 64, 257]),
        ({"tokenizer.ggml.pre": "qwen2"}, [64]),
    ):
        content = tokenizer_json_from_gguf(metadata | extra)
        backend = tokenizers.Tokenizer.from_str(json.dumps(content))
        assert backend.encode("a").ids == [alphabet.index("a") if token == 64 else token for token in expected]


# --- Hugging Face folders --------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, smollm: Tokenizer) -> Path:
    (tmp_path / "tokenizer.json").write_text(smollm.to_json(), encoding="utf-8")
    return tmp_path


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_folder_equals_gguf(folder: Path, smollm: Tokenizer) -> None:
    loaded = load_tokenizer(folder)
    for text in TEXTS + DIGIT_TEXTS:
        assert loaded.encode(text) == smollm.encode(text)
    assert loaded.token_pieces == smollm.token_pieces


@pytest.mark.parametrize("template", [["$A"], ["<|im_start|>", "$A", "<|im_end|>"]])
def test_post_processor_decides_about_bos_as_in_transformers(
    folder: Path, smollm: Tokenizer, template: list[str]
) -> None:
    backend = tokenizers.Tokenizer.from_str(smollm.to_json())
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": {"content": "<|im_start|>", "__type": "AddedToken"}, "add_bos_token": True}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **config})
    loaded = load_tokenizer(folder)
    assert loaded.bos_token == "<|im_start|>"
    assert loaded.encode("Hello") == AutoTokenizer.from_pretrained(str(folder)).encode("Hello")
    assert len(loaded.encode("Hello")) == len(template)
    assert loaded.encode("Hello", add_special_tokens=False) == smollm.encode("Hello")


def test_tokens_only_in_the_config_are_added(folder: Path) -> None:
    entry = {"content": "<extra>", "special": True, "normalized": False}
    write(
        folder,
        "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "added_tokens_decoder": {"49152": entry},
            "additional_special_tokens": ["<more>"],
        },
    )
    loaded = load_tokenizer(folder)
    assert loaded.vocab_size == 49154
    text = "a<extra>b<more>"
    assert loaded.encode(text) == AutoTokenizer.from_pretrained(str(folder)).encode(text)
    assert loaded.decode(loaded.encode(text)) == "ab"


def test_eos_ids_are_merged(folder: Path) -> None:
    write(folder, "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    assert load_tokenizer(folder).eos_token_ids == (2,)
    write(folder, "config.json", {"eos_token_id": 5})
    assert load_tokenizer(folder).eos_token_ids == (5, 2)
    write(folder, "generation_config.json", {"eos_token_id": [0, 2]})
    assert load_tokenizer(folder).eos_token_ids == (0, 2, 5)


def test_special_tokens_by_name(folder: Path, sentencepiece: Tokenizer) -> None:
    settings = {
        "eos_token": {"content": "<|im_end|>"},
        "pad_token": "<|im_end|>",
        "unk_token": None,
        "extra_special_tokens": {"image_token": "<image>"},
    }
    write(folder, "tokenizer_config.json", settings)
    expected = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "image_token": "<image>"}
    assert load_tokenizer(folder).named_tokens == expected
    assert sentencepiece.named_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def test_chat_templates_in_every_file(folder: Path) -> None:
    write(
        folder,
        "tokenizer_config.json",
        {"chat_template": [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]},
    )
    assert load_tokenizer(folder).chat_templates == {"default": "A", "tool_use": "B"}
    (folder / "chat_template.jinja").write_text("C")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("D")
    assert load_tokenizer(folder).chat_templates == {"default": "C", "tool_use": "B", "rag": "D"}


def test_folder_without_tokenizer_json_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer\.json.*save_pretrained"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ValueError, match=r"tokenizer\.json.* but a SentencePiece tokenizer\.model.*transformers<5"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenization_chatglm.py").write_text("raise SystemExit('never run')")
    with pytest.raises(ValueError, match=r"has no tokenizer\.json but a tokenizer in Python, .* is never run"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        load_tokenizer(tmp_path / "nothing")


def test_damaged_folders(folder: Path) -> None:
    write(folder, "tokenizer_config.json", {})
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read"):
        load_tokenizer(folder)


def test_other_decoders_are_refused(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    backend.decoder = tokenizers.decoders.WordPiece()
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="WordPiece"):
        load_tokenizer(tmp_path)


def test_import_stays_light() -> None:
    code = (
        "import sys, gllm.text.tokenizer, gllm.text.output.detokenizer, gllm.text.templates.chat_template;"
        "print(*sorted({'torch', 'transformers', 'numpy', 'llguidance', 'gguf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
