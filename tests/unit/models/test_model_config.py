"""config.json in its historic spellings, GGUF metadata, and the errors for what is not supported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from fixtures.tiny_models import BOS_ID, EOS_ID, VARIANTS, VOCAB_SIZE, write_gguf
from gllm.models.config import ModelConfig, MoEConfig, RopeConfig
from gllm.models.families import FAMILIES, load_model_config

TinyModel = Callable[[str], Path]

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "vocab_size": 32000,
    "torch_dtype": "float16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
QWEN2 = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 8, "rope_theta": 1000000.0}
QWEN3 = LLAMA | {"architectures": ["Qwen3ForCausalLM"], "num_key_value_heads": 8}
MISTRAL = LLAMA | {"architectures": ["MistralForCausalLM"], "num_key_value_heads": 8, "sliding_window": None}


MIXTRAL = LLAMA | {
    "architectures": ["MixtralForCausalLM"],
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "rope_theta": 1000000.0,
    "sliding_window": None,
}
QWEN2_MOE = LLAMA | {
    "architectures": ["Qwen2MoeForCausalLM"],
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "intermediate_size": 5632,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "norm_topk_prob": False,
    "decoder_sparse_step": 1,
}
QWEN3_MOE = LLAMA | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "head_dim": 128,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
}
GLM = LLAMA | {
    "architectures": ["GlmForCausalLM"],
    "num_key_value_heads": 2,
    "head_dim": 128,
    "rms_norm_eps": 1.5625e-07,
}
CHATGLM3 = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 8192,
    "torch_dtype": "float16",
    "eos_token_id": 2,
}
GLM4_9B = CHATGLM3 | {
    "architectures": ["ChatGLMForConditionalGeneration"],
    "layernorm_epsilon": 1.5625e-07,
    "num_layers": 40,
    "padded_vocab_size": 151552,
    "rope_ratio": 500,
    "seq_length": 131072,
    "torch_dtype": "bfloat16",
    "eos_token_id": [151329, 151336, 151338],
}


def write(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def load(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> ModelConfig:
    return load_model_config(write(folder, config, generation))


def test_llama_2_with_nothing_but_the_old_keys(tmp_path: Path) -> None:
    assert load(tmp_path, LLAMA) == ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=4096,
        intermediate_size=11008,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        vocab_size=32000,
        max_position=4096,
        rms_norm_eps=1e-5,
        rope=RopeConfig(theta=10000.0),
        tie_word_embeddings=False,
        attention_bias=False,
        dtype="float16",
        eos_token_ids=(2,),
        bos_token_id=1,
    )


@pytest.mark.parametrize(
    ("keys", "rope"),
    [
        ({}, RopeConfig()),
        ({"rope_theta": 500000.0, "rope_scaling": None}, RopeConfig(theta=500000.0)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, RopeConfig(theta=5e5)),
        ({"rope_scaling": {"rope_type": "default"}}, RopeConfig()),
        (
            {"rope_theta": 100000, "rope_scaling": {"type": "linear", "factor": 4.0}},
            RopeConfig(theta=100000.0, kind="linear", factor=4.0),
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4}},
            RopeConfig(theta=1e5, kind="linear", factor=4.0),
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3_SCALING}},
            RopeConfig(theta=5e5, kind="llama3", factor=8.0),
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3_SCALING, "factor": 32.0}},
            RopeConfig(theta=5e5, kind="llama3", factor=32.0),
        ),
        (
            {
                "original_max_position_embeddings": 1024,
                "rope_scaling": {"rope_type": "llama3", **LLAMA3_SCALING},
            },
            RopeConfig(kind="llama3", factor=8.0, original_max_position=1024),
        ),
    ],
)
def test_rope_spellings(keys: dict[str, Any], rope: RopeConfig, tmp_path: Path) -> None:
    assert load(tmp_path, LLAMA | keys).rope == rope


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA | {"num_key_value_heads": None}, {"num_kv_heads": 32}),
        (LLAMA | {"num_key_value_heads": 4}, {"num_kv_heads": 4}),
        (LLAMA | {"head_dim": 64}, {"head_dim": 64}),
        (LLAMA | {"attention_bias": True}, {"attention_bias": True, "attention_out_bias": True, "mlp_bias": False}),
        (LLAMA | {"mlp_bias": True}, {"attention_bias": False, "mlp_bias": True}),
        (LLAMA | {"tie_word_embeddings": True}, {"tie_word_embeddings": True}),
        (LLAMA | {"dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        (LLAMA | {"torch_dtype": None}, {"dtype": "float32"}),
        (LLAMA | {"eos_token_id": [7, 8]}, {"eos_token_ids": (7, 8)}),
        (LLAMA | {"eos_token_id": None, "bos_token_id": None}, {"eos_token_ids": (), "bos_token_id": None}),
        ({**LLAMA, "architectures": ["LLaMAForCausalLM"]}, {"architecture": "LlamaForCausalLM"}),
        ({**LLAMA, "architectures": None, "model_type": "llama"}, {"architecture": "LlamaForCausalLM"}),
        (QWEN2, {"attention_bias": True, "attention_out_bias": False, "rope": RopeConfig(theta=1e6)}),
        (QWEN2 | {"sliding_window": 4096, "use_sliding_window": False}, {"num_kv_heads": 8}),
        (QWEN3, {"head_dim": 128, "attention_bias": False}),
        (MISTRAL, {"architecture": "MistralForCausalLM"}),
        (MISTRAL | {"sliding_window": 4096}, {"max_position": 4096}),
        (
            MIXTRAL,
            {
                "moe": MoEConfig(num_experts=8, experts_per_token=2, intermediate_size=14336, renormalize=True),
                "rope": RopeConfig(theta=1e6),
                "attention_bias": False,
            },
        ),
        (MIXTRAL | {"rope_theta": None, "rms_norm_eps": None}, {"rope": RopeConfig(theta=1e6), "rms_norm_eps": 1e-5}),
        (
            QWEN2_MOE,
            {
                "moe": MoEConfig(
                    num_experts=60,
                    experts_per_token=4,
                    intermediate_size=1408,
                    renormalize=False,
                    shared_intermediate_size=5632,
                ),
                "attention_bias": True,
                "attention_out_bias": False,
                "head_dim": 128,
            },
        ),
        (QWEN2_MOE | {"qkv_bias": False}, {"attention_bias": False}),
        (
            QWEN3_MOE,
            {"moe": MoEConfig(num_experts=128, experts_per_token=8, intermediate_size=768, renormalize=True)},
        ),
        (QWEN3_MOE | {"num_experts": None, "num_local_experts": 64}, {"num_kv_heads": 4}),
        (
            GLM,
            {
                "rope": RopeConfig(partial_factor=0.5),
                "rotary_dim": 64,
                "attention_bias": True,
                "attention_out_bias": False,
            },
        ),
        (GLM | {"partial_rotary_factor": 0.25}, {"rotary_dim": 32}),
        (GLM | {"architectures": ["Glm4ForCausalLM"], "attention_bias": False}, {"attention_bias": False}),
        (
            GLM | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5}},
            {"rope": RopeConfig(theta=5e6, partial_factor=0.5)},
        ),
        (
            CHATGLM3,
            {
                "num_layers": 28,
                "intermediate_size": 13696,
                "num_kv_heads": 2,
                "head_dim": 128,
                "vocab_size": 65024,
                "max_position": 8192,
                "rms_norm_eps": 1e-5,
                "rope": RopeConfig(theta=1e4, partial_factor=0.5),
                "attention_bias": True,
                "attention_out_bias": False,
                "mlp_bias": False,
                "dtype": "float16",
                "eos_token_ids": (2,),
            },
        ),
        (CHATGLM3 | {"architectures": None}, {"architecture": "ChatGLMModel"}),
        (
            GLM4_9B,
            {
                "rope": RopeConfig(theta=5e6, partial_factor=0.5),
                "max_position": 131072,
                "eos_token_ids": (151329, 151336, 151338),
            },
        ),
    ],
)
def test_defaults_and_variants(config: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    loaded = load(tmp_path, config)
    assert {key: getattr(loaded, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("keys", "dense"),
    [
        ({}, set()),
        ({"decoder_sparse_step": 2}, {0, 2, 4}),
        ({"decoder_sparse_step": 3}, {0, 1, 3, 4}),
        ({"mlp_only_layers": [1, 4, 99]}, {1, 4}),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, {0, 1, 2, 4}),
        ({"decoder_sparse_step": 7}, {0, 1, 2, 3, 4, 5}),
    ],
)
def test_layers_without_experts(keys: dict[str, Any], dense: set[int], tmp_path: Path) -> None:
    config = load(tmp_path, QWEN2_MOE | {"num_hidden_layers": 6} | keys)
    assert {layer for layer in range(6) if not config.has_experts(layer)} == dense
    assert not load(tmp_path, LLAMA).has_experts(0)


def test_generation_config_gives_defaults_and_joins_eos(tmp_path: Path) -> None:
    generation = {
        "do_sample": True,
        "eos_token_id": [31999, 31990, 32000],
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 20,
        "min_p": None,
        "repetition_penalty": 1.05,
        "transformers_version": "4.40",
    }
    loaded = load(tmp_path, LLAMA, generation)
    # The model has no token 32000.
    assert loaded.eos_token_ids == (31999, 31990, 2)
    assert loaded.generation_defaults == {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LLAMA | {"architectures": ["GPT2LMHeadModel"]}, "'GPT2LMHeadModel' is not supported; supported are Llama"),
        (LLAMA | {"architectures": ["QWenLMHeadModel"]}, "nearest supported is Qwen2ForCausalLM"),
        (LLAMA | {"architectures": ["Qwen3NextForCausalLM"]}, "nearest supported is Qwen2ForCausalLM, .*Qwen3Moe"),
        (LLAMA | {"architectures": ["Qwen3Model"]}, "it makes embeddings and is not a generator"),
        (LLAMA | {"architectures": ["BertForMaskedLM"]}, "it makes embeddings and is not a generator"),
        (
            LLAMA | {"architectures": ["LlamaForSequenceClassification"]},
            "it classifies or scores text and is not a gen",
        ),
        (LLAMA | {"architectures": ["Qwen2ForProcessRewardModel"]}, "it classifies or scores text"),
        (
            LLAMA | {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": {"model_type": "mistral"}},
            "it is multimodal, .* its text part is a MistralForCausalLM",
        ),
        (
            LLAMA | {"architectures": ["Qwen3VLForConditionalGeneration"], "vision_config": {}},
            "it is multimodal, .* nearest text model is Qwen2ForCausalLM",
        ),
        (LLAMA | {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "an encoder-decoder model"),
        (LLAMA | {"architectures": []}, "architectures None is not supported"),
        (LLAMA | {"architectures": [["x"]]}, "is not supported"),
        (LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantization_config \(gptq\) is not"),
        (LLAMA | {"quantization": {"group_size": 64, "bits": 4}}, r"quantization \(unknown\) is not supported"),
        (LLAMA | {"compression_config": {"quant_method": "sparseml"}}, r"compression_config \(sparseml\) is not"),
        (LLAMA | {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        (LLAMA | {"hidden_size": None}, "hidden_size is missing"),
        (LLAMA | {"hidden_size": "big"}, "hidden_size must be an integer from 1 to"),
        (LLAMA | {"num_hidden_layers": 10**9}, "num_hidden_layers must be an integer from 1 to 4096"),
        (LLAMA | {"num_attention_heads": 0}, "num_attention_heads must be an integer"),
        (LLAMA | {"num_attention_heads": 33}, r"hidden_size \(4096\) is no multiple of num_attention_heads \(33\)"),
        (LLAMA | {"num_key_value_heads": 5}, "no multiple of the number of key-value heads"),
        (LLAMA | {"head_dim": 33}, r"head_dim \(33\) must be even"),
        (LLAMA | {"rms_norm_eps": -1}, "rms_norm_eps must be a positive number"),
        (LLAMA | {"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        (LLAMA | {"torch_dtype": "float8_e4m3fn"}, "torch_dtype 'float8_e4m3fn' is not supported"),
        (LLAMA | {"eos_token_id": "</s>"}, "eos_token_id must be a token id"),
        (LLAMA | {"rope_scaling": {"type": "ntk", "factor": 4}}, "rope_type 'ntk' is not supported; supported are"),
        (LLAMA | {"rope_scaling": {"type": ["yarn"]}}, "rope_type .* is not supported"),
        (LLAMA | {"rope_scaling": {"type": "dynamic"}}, "rope_scaling: factor is missing"),
        (
            LLAMA | {"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}},
            "rope_scaling: alpha of HunYuan",
        ),
        (LLAMA | {"rope_scaling": {"type": "yarn", "factor": "4"}}, "rope_scaling: factor must be a positive number"),
        (LLAMA | {"rope_scaling": {"type": "yarn", "truncate": 1}}, "truncate must be true or false"),
        (LLAMA | {"rope_parameters": {"rope_type": "longrope"}}, "short_factor must be a list of 64 positive numbers"),
        (
            LLAMA | {"rope_scaling": {"type": "su", "short_factor": [1.0] * 64, "long_factor": [1.0] * 63}},
            "long_factor must be a list of 64 positive numbers",
        ),
        (LLAMA | {"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
        (LLAMA | {"rope_scaling": [1]}, "rope_scaling must be an object"),
        (LLAMA | {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "differs between layers"),
        (LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "low_freq_factor is missing"),
        (
            LLAMA | {"rope_scaling": {"rope_type": "llama3", **LLAMA3_SCALING, "high_freq_factor": 1.0}},
            "high_freq_factor must be above low_freq_factor",
        ),
        (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported"),
        (GLM | {"partial_rotary_factor": 0.01}, "partial_rotary_factor .* must rotate an even number"),
        (GLM | {"partial_rotary_factor": 1.5}, "partial_rotary_factor .* must rotate an even number"),
        (MIXTRAL | {"sliding_window": "2048"}, "sliding_window must be an integer"),
        (MIXTRAL | {"num_experts_per_tok": 9}, r"num_experts_per_tok \(9\) is above num_local_experts \(8\)"),
        (QWEN3_MOE | {"num_experts": 10**6}, "num_experts must be an integer from 1 to 4096"),
        (QWEN3_MOE | {"moe_intermediate_size": None}, "moe_intermediate_size is missing"),
        (QWEN3_MOE | {"mlp_only_layers": "all"}, "mlp_only_layers must be a list of layer numbers"),
        (CHATGLM3 | {"rmsnorm": False}, "rmsnorm must be true: no other kind of ChatGLM"),
        (CHATGLM3 | {"post_layer_norm": False}, "post_layer_norm must be true"),
        (CHATGLM3 | {"multi_query_attention": None}, "multi_query_attention must be true"),
        (CHATGLM3 | {"add_bias_linear": True}, "add_bias_linear must be false"),
        (CHATGLM3 | {"quantization_bit": 4}, "quantization_bit is set"),
        (CHATGLM3 | {"pre_seq_len": 128}, "pre_seq_len is set"),
        (CHATGLM3 | {"vision_config": {"depth": 1}}, "vision_config is set"),
        (CHATGLM3 | {"kv_channels": "x"}, "kv_channels must be an integer"),
        (CHATGLM3 | {"rope_ratio": 16, "_name_or_path": "THUDM/chatglm2-6b-32k"}, "rope_ratio of ChatGLM2"),
    ],
)
def test_refusals_are_one_line_that_names_the_key(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, config)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load_model_config(tmp_path)
    (tmp_path / "small.gguf").touch()
    with pytest.raises(ValueError, match=r"; for its GGUF give the file, .*small\.gguf"):
        load_model_config(tmp_path)
    with pytest.raises(ValueError, match="'nowhere' does not exist: give a Hugging Face folder or a GGUF file"):
        load_model_config("nowhere")
    for content in ("{", "[1]", "[" * 100_000):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json"):
            load_model_config(tmp_path)
    with pytest.raises(ValueError, match="temperature must be a number"):
        load(tmp_path, LLAMA, {"temperature": "hot"})


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_transformers_writes_today(variant: str, tiny_model: TinyModel) -> None:
    config = load_model_config(tiny_model(variant))
    assert (config.hidden_size, config.num_layers, config.num_heads, config.vocab_size) == (64, 3, 4, VOCAB_SIZE)
    assert config.dtype == "float32"
    assert (config.bos_token_id, config.eos_token_ids) == (BOS_ID, (EOS_ID,))
    assert config.generation_defaults == {"temperature": 0.6, "top_p": 0.9, "top_k": 20}
    assert config.tie_word_embeddings == variant.endswith("-tied")


@pytest.mark.parametrize(
    "variant", ["llama", "llama-tied", "llama-bias", "deepseek-coder", "qwen2", "qwen3-tied", "glm4", "chatglm3"]
)
def test_gguf_gives_the_config_of_the_folder(variant: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = tiny_model(variant)
    expected = load_model_config(folder)
    actual = load_model_config(write_gguf(folder, tmp_path / "model.gguf", "F32"))
    for name in ModelConfig.__struct_fields__:
        if name not in ("generation_defaults", "rms_norm_eps"):
            assert getattr(actual, name) == getattr(expected, name), name
    assert actual.rms_norm_eps == pytest.approx(expected.rms_norm_eps)


def test_gguf_dtype_and_llama3_divisors(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for quant, dtype in (("F16", "float16"), ("BF16", "bfloat16"), ("Q4_0", "bfloat16")):
        assert load_model_config(write_gguf(tiny_model("llama3"), path, quant)).dtype == dtype
    rope = load_model_config(path).rope
    assert rope.kind == "factors"
    assert len(rope.frequency_factors) == 16
    assert (rope.frequency_factors[0], rope.frequency_factors[-1]) == (1.0, 8.0)


def gguf_with(path: Path, architecture: str = "llama", **fields: Any) -> Path:
    """A header with one tensor; `fields` override or (None) drop keys, with __ for the dots."""
    values: dict[str, Any] = {
        f"{architecture}.block_count": 1,
        f"{architecture}.context_length": 64,
        f"{architecture}.embedding_length": 32,
        f"{architecture}.feed_forward_length": 64,
        f"{architecture}.attention.head_count": 2,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
    }
    tensors = {"token_embd.weight": np.zeros((8, 32), np.float32)}
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            tensors[name.replace("__", ".")] = value
        else:
            values[name.replace("__", ".")] = value
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_optional_keys(tmp_path: Path) -> None:
    config = load_model_config(
        gguf_with(
            tmp_path / "model.gguf",
            tokenizer__ggml__eos_token_id=5,
            tokenizer__ggml__eot_token_id=6,
            general__sampling__temp=0.6,
            general__sampling__top_k=20,
            llama__rope__scale_linear=2.0,
        )
    )
    assert (config.num_kv_heads, config.head_dim, config.vocab_size) == (2, 16, 8)
    assert config.eos_token_ids == (5, 6)
    assert config.generation_defaults == {"temperature": 0.6, "top_k": 20}
    assert config.rope == RopeConfig(kind="linear", factor=2.0)


@pytest.mark.parametrize(
    ("architecture", "fields", "message"),
    [
        ("gemma", {}, "general.architecture 'gemma' is not supported; supported are llama, qwen2, qwen2moe, qwen3"),
        ("qwen3moe", {"qwen3moe__expert_count": 8}, r"no tensor blk\.0\.ffn_gate_exps\.weight of 8 experts"),
        ("llama", {"split__count": 2}, "one part of several, whose names must end in -00001-of-00003"),
        ("llama", {"llama__expert_count": 8}, r"no tensor blk\.0\.ffn_gate_exps\.weight of 8 experts"),
        ("llama", {"llama__block_count": None}, "llama.block_count is missing"),
        ("llama", {"llama__attention__head_count": [2, 4]}, "head_count must be an integer"),
        ("llama", {"llama__rope__dimension_count": 8}, "rope.dimension_count differs from the head's 16"),
        ("llama", {"llama__rope__scaling__type": "ntk"}, "scaling.type 'ntk' is not supported"),
        ("llama", {"llama__rope__scaling__type": "longrope"}, "no tensor rope_factors_short.weight"),
        ("llama", {"rope_freqs__weight": np.ones(3, np.float32)}, "rope_freqs.weight must hold 8 F32 values"),
        ("llama", {"rope_freqs__weight": np.zeros(8, np.float32)}, "rope_freqs.weight must hold positive numbers"),
    ],
)
def test_gguf_refusals(architecture: str, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = gguf_with(tmp_path / "model.gguf", architecture, **fields)
    with pytest.raises(ValueError, match=message) as caught:
        load_model_config(path)
    assert str(path) in str(caught.value)


def test_config_loads_without_torch() -> None:
    code = "import sys, gllm.models.families; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_family_has_a_tiny_model(tiny_model: TinyModel) -> None:
    served = {load_model_config(tiny_model(variant)).architecture for variant in VARIANTS}
    assert served == {family.architecture for family in FAMILIES}


def test_the_error_names_what_a_folder_is_instead_of_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json: it is not a Hugging Face model folder"):
        load_model_config(tmp_path)
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(ValueError, match="it is a model in the layout of its authors"):
        load_model_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}')
    with pytest.raises(ValueError, match=r"it is an adapter \(LoRA\) for a/b, not a model"):
        load_model_config(tmp_path)
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(ValueError, match=r"a folder of the Hugging Face cache: name the snapshot in it, .*/abc"):
        load_model_config(tmp_path)
    assert load_model_config(snapshot).architecture == "LlamaForCausalLM"
    (snapshot / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON: it is a git-lfs pointer"):
        load_model_config(snapshot)
