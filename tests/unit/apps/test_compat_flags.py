"""Flags of vLLM and SGLang are renamed, passed over, or refused by name; unknown flags get a suggestion."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_command_line import parse

from gllm.apps.cli.compat_flags_docs import with_tables
from gllm.apps.cli.parsing import translate
from gllm.apps.compat_flags import COMPAT_FLAGS, canonical
from gllm.config import Config

NOTHING_IS_MEANT = re.findall(
    r"\S+",
    """
--log-format --prefill-tokens --ctx-size --n-gpu-layers --batch-size --temperature --top-p --verbose --cache --size
--expert-tensor-parallel-size --enable-nccl-nvls --allowed-media-domains --soft-watchdog-timeout
--disable-cuda-graph-padding --prefix-cache --show-hidden-metrics-for-version --scheduler-cls --kv-events-config --nodes
--decode-attention-backend --disable-fastapi-docs --worker-cls --gpus --workers --max-tokens --timeout --name
""",
)


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "Tiny-1B"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 64, "head_dim": 16, '
        '"intermediate_size": 64, "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2, '
        '"num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 64, '
        '"max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "norm_topk_prob": true}'
    )
    return str(folder)


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("--tensor-parallel-size 2", "--tp 2"),
        ("-tp 2", "--tp 2"),
        ("-tp=2", "--tp 2"),
        ("--tp-size=2", "--tp 2"),
        ("--tensor_parallel_size 2", "--tp 2"),
        ("--pipeline-parallel-size 2", "--pp 2"),
        ("-pp 2", "--pp 2"),
        ("--pp-size 2", "--pp 2"),
        ("-tp 4 --enable-expert-parallel", "--tp 4 --ep 4"),
        ("--enable-expert-parallel --tp 2", "--tp 2 --ep 2"),
        ("--tp 4 --ep-size 2", "--tp 4 --ep 2"),
        ("--max-num-batched-tokens 512", "--max-prefill-tokens 512"),
        ("--chunked-prefill-size 512", "--max-prefill-tokens 512"),
        ("--gpu-memory-utilization 0.5", "--gpu-memory-utilization 0.5"),
        ("--mem-fraction-static 0.5", "--gpu-memory-utilization 0.5"),
        ("--served-model-name x", "--served-model-name x"),
        ("--enforce-eager", "--enforce-eager"),
        ("--disable-cuda-graph", "--enforce-eager"),
        ("--tool-call-parser llama3_json", "--tool-parser llama"),
        ("--tool-call-parser hermes --enable-auto-tool-choice", "--tool-parser hermes"),
        ("--reasoning-parser deepseek_r1", "--reasoning-parser qwen3"),
        ("--block-size 32", "--page-size 32"),
        ("--max_model_len=48", "--max-model-len 48"),
        ("--context-length 48", "--max-model-len 48"),
        ("--max-model-len=-1", ""),
        ("--max-num-batched-tokens 1.5k", "--max-prefill-tokens 1500"),
        ("--max-num-batched-tokens 2K", "--max-prefill-tokens 2048"),
        ("--max-running-requests 5", "--max-num-seqs 5"),
        ("--dtype half", "--dtype float16"),
        ("--random-seed 3", "--seed 3"),
        ("--enable-prefix-caching", "--prefix-caching"),
        ("--no-enable-prefix-caching", "--no-prefix-caching"),
        ("--disable-radix-cache", "--no-prefix-caching"),
        ("--uvicorn-log-level info --log-level-http x", ""),
        ("--disable-log-requests --disable-log-stats", ""),
        ("--kv-cache-dtype auto --swap-space 0 --distributed-executor-backend mp -dp 1 --task generate", ""),
        ("--load-format safetensors", "--load-format auto"),
        ("--generation-config vllm", "--generation-config none"),
        ("--compilation-config {} --max-seq-len-to-capture=4096", ""),
        ("--watchdog-timeout 9", "--step-timeout 9"),
        ("--attention-backend torch_native", "--attention-backend reference"),
        ("-O3 -O 2 -O.level=1 -cc.mode=3", ""),
        ("--enforce-eager=True --enable-chunked-prefill True", "--enforce-eager"),
        ("--enable-prefix-caching=false", "--no-prefix-caching"),
        ("--enable-prefix-caching False", "--no-prefix-caching"),
        # These turn off what is off by default in the other server, and off or missing in this one.
        ("--no-enforce-eager --no-enable-auto-tool-choice --no-trust-remote-code --no-enable-lora", ""),
        ("--no-enable-expert-parallel --no-disable-log-stats --no-enable-sleep-mode", ""),
    ],
)
def test_flags_of_vllm_and_sglang_set_the_same_config(model: str, given: str, ours: str) -> None:
    given = given.replace("--uvicorn-log-level info ", "")  # Only a whole command has --log-level.
    assert parse(model, *given.split()) == parse(model, *ours.split())


def test_the_model_may_be_given_by_a_flag(model: str) -> None:
    assert parse("--model", model, "--port", "9") == parse(model, "--port", "9")
    assert parse(f"--model-path={model}") == parse(model)
    assert translate(["--uvicorn-log-level", "trace"], {"--log-level": True}, compat_flags=True) == [
        "--log-level",
        "debug",
    ]


def test_several_names_follow_the_model_as_with_vllm(model: str) -> None:
    config = parse(model, "--served-model-name", "one", "two", "org/three", "--port", "9").gateway
    assert (config.served_model_name, config.served_model_aliases, config.port) == ("one", ("two", "org/three"), 9)
    assert parse("--model", model, "--served-model-name", "one", "two").gateway.served_model_aliases == ("two",)
    # If the flag comes first, the word after its name is the model.
    assert parse("--served-model-name", "one", model) == parse(model, "--served-model-name", "one")


def test_an_address_sets_host_and_port() -> None:
    options = {"--master-addr": True, "--master-port": True}
    for address, host in [("[fd00::1]:5000", "fd00::1"), ("10.0.0.1:5000", "10.0.0.1"), ("tcp://a.b:5000", "a.b")]:
        given = translate(["--dist-init-addr", address], options, compat_flags=True)
        assert given == ["--master-addr", host, "--master-port", "5000"]
    with pytest.raises(ValueError, match=r"--dist-init-addr 10\.0\.0\.1: write HOST:PORT"):
        translate(["--dist-init-addr=10.0.0.1"], options, compat_flags=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--speculative-config.method ngram", "speculative decoding is not supported"),
        ("--hf-token x", "set HF_TOKEN in the environment"),
        ("--tool-parser-plugin x.py", "there are no plugins"),
        ("--trust-remote-code", "--trust-remote-code does not exist here: code from a model folder is never run"),
        ("--quantization awq", "--quantization awq is not supported: what a checkpoint holds is read from it"),
        ("-q fp8", "-q fp8 is not supported"),
        ("--swap-space 4", "--swap-space 4 is not supported: nothing is swapped"),
        ("--kv-cache-dtype fp8", "--kv-cache-dtype fp8 is not supported: the KV cache has the type of --dtype"),
        ("--distributed-executor-backend ray", "nodes join with --launch-mode"),
        ("--data-parallel-size 2", "start one server for each replica"),
        ("--enable-lora", "--enable-lora does not exist here: LoRA adapters are not supported"),
        ("--lora_modules a=b", "--lora-modules does not exist here"),
        ("--speculative-config {}", "speculative decoding is not supported"),
        ("--tokenizer other", "the tokenizer is read from the model's folder"),
        ("--mm-attention-backend fa3", "--mm-attention-backend does not exist here: this server reads text only"),
        ("--speculative-ngram-capacity 3", "speculative decoding is not supported"),
        ("--lora-target-modules x", "LoRA adapters are not supported"),
        ("--data-parallel-rank 0", "start one server for each replica"),
        ("--disaggregation-ib-device x", "prompts and answers are computed by the same workers"),
        ("--enable-chunked-prefill=False", "--no-enable-chunked-prefill does not exist here: long prompts"),
        ("--no-such-thing", "No such option: --no-such-thing"),
        ("--no-swap-space", "No such option: --no-swap-space"),
        ("--root-path /x", "let the proxy in front remove the prefix"),
        ("--max-total-tokens 4096", "write --num-pages"),
        ("--tensor-parallel-size", "'--tensor-parallel-size' requires an argument"),
        ("--tool-call-parser mistral", "'--tool-parser'"),
    ],
)
def test_a_flag_without_a_counterpart_is_refused_by_name(model: str, given: str, message: str) -> None:
    with pytest.raises(AssertionError) as refusal:
        parse(model, *given.split())
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        ("--polcy", "--policy"),
        ("--max-seqs", "--max-num-seqs"),
        ("--tensor-paralel-size", "--tp"),
        ("--tensor-parallel", "--tp"),
        ("--gpu-memory-utilisation", "--gpu-memory-utilization"),
        ("--model-len", "--max-model-len"),
        ("--apikey", "--api-key"),
        ("--tool-parsers", "--tool-parser"),
        *[(flag, "") for flag in NOTHING_IS_MEANT],
    ],
)  # fmt: skip
def test_the_suggestion_for_an_unknown_flag_is_the_right_one_or_none(model: str, given: str, suggested: str) -> None:
    with pytest.raises(AssertionError) as refusal:
        parse(model, given, "1")
    assert f"No such option: {given} " in str(refusal.value)
    assert ("did you mean" in str(refusal.value)) == bool(suggested)
    assert f"(did you mean {suggested}?)" in str(refusal.value) or not suggested


def test_the_word_after_a_flag_is_its_value_even_if_it_looks_like_a_flag(model: str) -> None:
    assert parse(model, "--served-model-name", "--tp").gateway.served_model_name == "--tp"
    assert translate(["--", "--tensor-parallel-size"], {}, compat_flags=True) == ["--", "--tensor-parallel-size"]


def test_all_bounds_of_the_goodput_after_one_flag() -> None:
    given = ["--goodput", "ttft:200", "tpot:50", "--seed", "1"]
    expected = ["--goodput", "ttft:200", "--goodput", "tpot:50", "--seed", "1"]
    assert translate(given, {"--goodput": True, "--seed": True}, compat_flags=False) == expected


def test_a_command_without_an_engine_keeps_its_own_flags() -> None:
    options = {"--model": True, "--max-model-len": True}
    given = ["--model", "x", "--max_model_len=5"]
    assert translate(given, options, compat_flags=False) == ["--model", "x", "--max-model-len=5"]
    with pytest.raises(ValueError, match=r"No such option: --tp-size$"):
        translate(["--tp-size", "2"], {"--model": True}, compat_flags=False)


def test_every_counterpart_exists() -> None:
    from gllm.apps.cli.nodes import NODES_FLAGS
    from gllm.apps.cli.options import ENGINE_FLAGS, GATEWAY_FLAGS, SOURCE_FLAGS

    flags = SOURCE_FLAGS + ENGINE_FLAGS + GATEWAY_FLAGS + NODES_FLAGS
    known = {"MODEL", "--log-level"} | {part for flag in flags for part in flag.option.strip(" /").split("/")}
    assert {row.ours for row in COMPAT_FLAGS if row.ours} <= known
    names = [name for row in COMPAT_FLAGS for name in row.names]
    assert len(names) == len(set(names))
    assert canonical("--tensor_parallel_size") == "--tp"
    assert canonical("--swap-space") == "--swap-space"


def test_the_default_config_is_not_changed_by_flags_that_mean_nothing_here(model: str) -> None:
    nothing: list[str] = []
    for row in COMPAT_FLAGS:
        if row.ignored is not None:
            for name in row.names:
                nothing += [name, *({"*": "x"}.get(value, value) for value in row.ignored[:1])]
    config: Config = parse(model, *nothing)
    assert config == parse(model)


def test_the_docs_page_has_the_current_tables() -> None:
    page = (Path(__file__).parents[3] / "docs" / "coming-from-vllm.md").read_text()
    assert page == with_tables(page), "run: python -m gllm.apps.cli.compat_flags_docs docs/coming-from-vllm.md"
