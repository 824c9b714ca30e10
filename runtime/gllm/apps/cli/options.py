"""The flags of the command line as tables: name, help and bounds of every setting."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gllm.apps.cli.flag import Flag
from gllm.apps.cli.flag_values import (
    check_api_key,
    check_below_one,
    check_file,
    check_otlp,
    check_page_size,
    check_seconds,
    check_share,
    parse_bytes,
    parse_layers,
    parse_names,
    parse_origins,
)
from gllm.config import EngineConfig, GatewayConfig, LogLevel, ModelSource

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="A Hugging Face folder (config.json, safetensors, tokenizer.json), a GGUF file, or a name on the hub "
        "such as Qwen/Qwen3-0.6B or org/name:Q4_K_M, which is downloaded unless the Hugging Face cache has it. "
        "Default: the SmolLM2-135M-Instruct that `make serve` installs.",
    ),
]

LogLevelOption = Annotated[
    LogLevel,
    typer.Option("--log-level", help="Least severity of what the processes log on stderr.", rich_help_panel="Process"),
]


def _source(name: str, help: str, **more: Any) -> Flag:
    return Flag(owner=ModelSource, name=name, panel="Model", help=help, **more)


def _engine(name: str, panel: str, help: str, **more: Any) -> Flag:
    return Flag(owner=EngineConfig, name=name, panel=panel, help=help, **more)


def _gateway(name: str, panel: str, help: str, **more: Any) -> Flag:
    return Flag(owner=GatewayConfig, name=name, panel=panel, help=help, **more)


SOURCE_FLAGS: tuple[Flag, ...] = (
    _source("revision", "Branch, tag or commit of a model on the hub.", shown_default="main"),
    _source("download_dir", "Folder of the cache for models of the hub.", metavar="FOLDER",
            shown_default="Hugging Face's own: HF_HUB_CACHE, HF_HOME"),
)  # fmt: skip

ENGINE_FLAGS: tuple[Flag, ...] = (
    _engine("device", "Model", "Where to compute; auto takes a GPU if there is one."),
    _engine("dtype", "Model", "Of weights, activations and KV cache; auto: the checkpoint's, if the device has it."),
    _engine("load_format", "Model", "dummy: random weights from config.json alone, to measure speed."),
    _engine("max_model_len", "Model", "Longest prompt + output in tokens.", least=0, shown_default="what fits"),
    _engine("enforce_eager", "Model", "Launch kernels one by one, without CUDA graphs (GPU) or CPU graphs.",
            shown_default=False),
    _engine("attention_backend", "Model", "The attention kernels; auto: the fastest for the device."),
    _engine("seed", "Model", "Seed of dummy weights.", least=0),
    _engine("max_num_seqs", "Memory", "Most requests that run at once.", least=1, most=65536),
    _engine("page_size", "Memory", "Tokens in a page of the KV cache.", check=check_page_size),
    _engine("num_pages", "Memory", "Pages of the KV cache.", least=0, shown_default="from the memory budget"),
    _engine("kv_cache_memory", "Memory", "Memory of each worker's KV cache, such as 512M or 2G.",
            parse=parse_bytes, shown_default="a share of what is free"),
    _engine("gpu_memory_utilization", "Memory", "Share of a GPU's memory for weights, KV cache and all else.",
            check=check_share),
    _engine("enable_prefix_caching", "Memory", "Whether requests share the KV pages of equal beginnings of prompts.",
            spelling="--prefix-caching/--no-prefix-caching"),
    _engine("policy", "Scheduling",
            "How many tokens of which request the next step has: by tokens (token_throttling, and its ablations "
            "no_wt and no_ut), by predicted time (balanced), or decodes first (chunked_prefill, decode_cap)."),
    _engine("max_prefill_tokens", "Scheduling",
            "Most prompt tokens in a step (chunked_prefill, decode_cap: most tokens of any kind).", least=1),
    _engine("min_prefill_tokens", "Scheduling", "Fewest prompt tokens in a step, if that many wait.", least=1),
    _engine("prefill_iterations", "Scheduling", "Steps over which the waiting prompt tokens are spread.", least=1),
    _engine("kv_threshold", "Scheduling", "Share of the KV cache that new prompts leave free.", check=check_below_one),
    _engine("ttft_target", "Scheduling", "balanced: target of the time to first token, in seconds; with time left, a "
            "step has fewer prompt tokens.", check=check_seconds, shown_default="none"),
    _engine("tpot_target", "Scheduling", "Target of the time per output token, in seconds: a step is predicted to last "
            "no longer, by cutting prompts, under every policy.", check=check_seconds, shown_default="0.25 s a step"),
    _engine("trace", "Process", "Write what the stages do to this file, for ui.perfetto.dev.",
            metavar="FILE", shown_default="none"),
    _engine("pp", "Parallel", "Pipeline stages: the layers are divided between them.", least=1, envvar="GLLM_PP"),
    _engine("tp", "Parallel", "Ranks of a stage, on one node: heads and columns are divided between them.",
            least=1, envvar="GLLM_TP"),
    _engine("ep", "Parallel", "Groups over which a stage's experts are divided; divides --tp.",
            least=1, envvar="GLLM_EP"),
    _engine("assigned_layers", "Parallel", "Layers of each stage, such as 16,16,17,15.", parse=parse_layers,
            metavar="N,N,...", shown_default="even stage times", envvar="GLLM_ASSIGNED_LAYERS"),
    _engine("threads", "Process", "CPU threads of a worker.", least=0, most=4096,
            shown_default="the cores, shared by the workers of a node"),
    _engine("step_timeout", "Process", "Seconds without the result of a step, then the group restarts.", least=1),
)  # fmt: skip

GATEWAY_FLAGS: tuple[Flag, ...] = (
    _gateway("chat_template", "Model", "A Jinja file that replaces the model's own chat template.", check=check_file),
    _gateway(
        "allow_special_tokens",
        "Model",
        "A special token that is spelled in a chat message is that token; without this flag it is text.",
    ),
    _gateway("tool_parser", "Model", "Format of the model's tool calls; auto reads it off the chat template."),
    _gateway("reasoning_parser", "Model", "How to separate reasoning from the answer; auto: by the chat template."),
    _gateway("generation_config", "Model", "auto: sampling defaults come from the model's generation_config.json."),
    _gateway("host", "HTTP", "Address to listen on; 0.0.0.0 is every network the machine is in."),
    _gateway("port", "HTTP", "Port to listen on.", least=0, most=65535),
    _gateway("served_model_name", "HTTP", "The model's name in requests.",
             shown_default="the name on the hub, or the last part of a path"),
    _gateway("served_model_aliases", "HTTP", "More names of the model in requests.", spelling="--served-model-alias",
             parse=parse_names, metavar="NAME,...", shown_default="none"),
    _gateway("api_key", "HTTP", "Requests must carry this key, except /health and /ready.",
             check=check_api_key, envvar="GLLM_API_KEY", shown_default="no key"),
    _gateway("allowed_origins", "HTTP", "Web pages that may use the server, such as https://example.com; * is all.",
             parse=parse_origins, metavar="ORIGIN,...", shown_default="pages on localhost"),
    _gateway("ui", "HTTP", "The web page at /, with a chat and a view of the pipeline.", spelling="--ui/--no-ui"),
    _gateway("max_queued_requests", "HTTP", "Choices of requests that may wait; more are refused with 429.", least=0),
    _gateway("max_queued_tokens", "HTTP", "Prompt tokens that may wait; more are refused with 429.",
             least=0, shown_default="no bound"),
    _gateway("drain_timeout", "Process", "Seconds that running requests get to finish after SIGTERM.", least=0),
    _gateway("drain_delay", "Process", "Seconds after SIGTERM in which new connections are still served: as long as a "
             "load balancer takes to notice. --drain-timeout begins after them.",
             least=0, envvar="GLLM_DRAIN_DELAY", shown_default=0),
    _gateway("log_requests", "Process", "Log a line for every request, without its content."),
    _gateway("otlp_endpoint", "Process", "Collector for OpenTelemetry traces, over HTTP, such as "
             "http://collector:4318; the gateway and the engine send spans. Needs the extra `otel`.",
             check=check_otlp, metavar="URL", shown_default="no traces"),
)  # fmt: skip

PROMPT_FLAGS = tuple(
    flag for flag in GATEWAY_FLAGS if flag.name in ("chat_template", "allow_special_tokens", "generation_config")
)
"""The flags that `LLM` takes too."""
