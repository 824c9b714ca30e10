"""What counts as a name on the hub, and which files of a repository are needed."""

from __future__ import annotations

import json

import pytest

from gllm.hub.files import NeededFiles, needed_files
from gllm.hub.name import HubName, parse_hub_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Qwen/Qwen3-0.6B", HubName("Qwen/Qwen3-0.6B")),
        ("hf://Qwen/Qwen3-0.6B", HubName("Qwen/Qwen3-0.6B")),
        ("org/name@v1.0", HubName("org/name", "v1.0")),
        ("org/name@refs/pr/3", HubName("org/name", "refs/pr/3")),
        ("org/name:Q4_K_M", HubName("org/name", gguf="Q4_K_M")),
        ("org/name@abc:Q4_K_M", HubName("org/name", "abc", "Q4_K_M")),
        ("org/name:sub/model-q8.gguf", HubName("org/name", gguf="sub/model-q8.gguf")),
        ("org/name-GGUF/sub/model-q8.gguf", HubName("org/name-GGUF", gguf="sub/model-q8.gguf")),
    ],
)
def test_names_on_the_hub(text: str, name: HubName) -> None:
    assert parse_hub_name(text) == name


@pytest.mark.parametrize(
    "text",
    ["", "name", "./org/name", "../org/name", "/org/name", "~/org/name", "org/name/", "a/b/c", "dir/model.gguf", 
     "a b/c", "org//name", "file:///a/b", "https://huggingface.co/org/name"],
)  # fmt: skip
def test_paths_are_no_names(text: str) -> None:
    assert parse_hub_name(text) is None


def test_a_revision_may_be_given_once() -> None:
    assert parse_hub_name("org/name", "v1") == parse_hub_name("org/name@v1", "v1") == HubName("org/name", "v1")
    with pytest.raises(ValueError, match="names the revision v1, --revision v2 another one"):
        parse_hub_name("org/name@v1", "v2")


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
SMALL = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
OTHER_LAYOUTS = [
    "README.md",
    "LICENSE",
    ".gitattributes",
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model.bin.index.json",
    "consolidated.safetensors",
    "consolidated-00001-of-00002.safetensors",
    "consolidated.safetensors.index.json",
    "params.json",
    "metal/model.safetensors",
    "original/consolidated.00.pth",
    "original/tokenizer.model",
    "onnx/model.onnx",
    "onnx/config.json",
    "openvino/model.xml",
    "model.fp16.safetensors",
    "model.fp16-00001-of-00002.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
    "flax_model.msgpack",
    "tf_model.h5",
    "../evil.json",
    "/etc/evil.json",
    "modeling_own.py",
    "model-Q4_K_M.gguf",
    "training_args.bin",
]


def needed(*names: str, gguf: str = "", index: object = None) -> NeededFiles:
    def read(name: str) -> bytes:
        assert name == "model.safetensors.index.json"
        return json.dumps(index).encode()

    return needed_files(names, gguf, read)


def test_the_shards_are_those_that_the_index_names() -> None:
    index = {"metadata": {}, "weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]}}
    found = needed(*SMALL, *SHARDS, *OTHER_LAYOUTS, "model.safetensors.index.json", "model.safetensors", index=index)
    assert found == NeededFiles(tuple(sorted([*SMALL, "model.safetensors.index.json"])), tuple(SHARDS), "")


def test_one_file_of_weights_is_taken_alone() -> None:
    found = needed(*SMALL, *OTHER_LAYOUTS, "model.safetensors", "chat_template.jinja", "chat_templates/tool.jinja")
    assert found.weights == ("model.safetensors",)
    assert set(found.settings) == {*SMALL, "chat_template.jinja", "chat_templates/tool.jinja"}
    assert needed(*SMALL, *SHARDS).weights == tuple(SHARDS)


@pytest.mark.parametrize(
    ("names", "index", "message"),
    [
        (["model.safetensors"], None, r"no config\.json"),
        (["config.json"], None, "neither safetensors nor a GGUF file$"),
        (["config.json", "pytorch_model.bin"], None, r"\(\.bin files are never read\)"),
        (["config.json", "model.safetensors.index.json"], {"weight_map": {"a": SHARDS[0]}}, f"no {SHARDS[0]}, which"),
        (["config.json", "model.safetensors.index.json"], {"weight_map": 3}, "not a valid index"),
        (["config.json", "model.safetensors.index.json"], ["x"], "not a valid index"),
    ],
)
def test_why_a_repository_cannot_be_served(names: list[str], index: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        needed(*names, index=index)


BF16 = ["BF16/tiny-BF16-00001-of-00002.gguf", "BF16/tiny-BF16-00002-of-00002.gguf"]
GGUF = [
    "tiny-Q8_0.gguf",
    "tiny-Q4_K_M.gguf",
    "tiny-q4_k_s.gguf",
    "tiny-IQ4_XS.gguf",
    "mmproj-tiny-f16.gguf",
    *BF16,
    "README.md",
    "tiny.imatrix.gguf",
    "Q2_K/tiny-Q2_K.gguf",
    "Q2_K/tiny-Q2_K_L.gguf",
]


@pytest.mark.parametrize(
    ("wanted", "files"),
    [
        ("", ["tiny-Q4_K_M.gguf"]),
        ("Q8_0", ["tiny-Q8_0.gguf"]),
        ("q8_0", ["tiny-Q8_0.gguf"]),
        ("Q4_K_S", ["tiny-q4_k_s.gguf"]),
        ("tiny-Q8_0.gguf", ["tiny-Q8_0.gguf"]),
        ("tiny-Q8_0", ["tiny-Q8_0.gguf"]),
        ("BF16", BF16),
        ("BF16/tiny-BF16-00001-of-00002.gguf", BF16),
    ],
)  # fmt: skip
def test_a_gguf_file_is_chosen_by_name_or_quantization(wanted: str, files: list[str]) -> None:
    assert needed(*GGUF, gguf=wanted) == NeededFiles((), tuple(files), files[0])


def test_the_only_gguf_file_needs_no_name() -> None:
    assert needed("a-Q8_0.gguf", "mmproj.gguf").model == "a-Q8_0.gguf"
    assert needed("config.json", "model.safetensors", "a-Q8_0.gguf").model == ""
    assert needed("config.json", "model.safetensors", "a-Q8_0.gguf", gguf="Q8_0").model == "a-Q8_0.gguf"


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        (GGUF, "Q3_K", "it has no GGUF file Q3_K; there are BF16/tiny-BF16, Q2_K/"),
        (["a-Q8_0.gguf", "a-Q5_0.gguf"], "", "it may be one of a-Q5_0, a-Q8_0: name one, such as :a-Q5_0"),
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], "Q8_0", "Q8_0 may be one of a-Q8_0, b-Q8_0"),
    ],
)
def test_an_ambiguous_choice_is_an_error(names: list[str], wanted: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        needed(*names, gguf=wanted)
