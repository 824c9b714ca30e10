"""Flags of the command line as a table: name, help and bounds of every setting, and the way from flags to `Config`."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
import typer

from gllm.config import EngineConfig, GatewayConfig, ModelSource, NodesConfig

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

LogLevel = Literal["debug", "info", "warning", "error"]
LogLevelOption = Annotated[
    LogLevel,
    typer.Option("--log-level", help="How much the processes tell on stderr.", rich_help_panel="Process"),
]

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str | int) -> int:
    """`512M`, `2G`, `1.5GiB` or a number of bytes, in powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(text).strip(), re.IGNORECASE)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not an amount of memory; write for example 512M or 2G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_layers(text: str | tuple[int, ...]) -> tuple[int, ...]:
    """`16,16,17,15`: the layers of each stage."""
    if isinstance(text, tuple):
        return text
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers; write for example 16,16,17,15") from None


def parse_origins(text: str | tuple[str, ...]) -> tuple[str, ...]:
    """`https://a.example,https://b.example`, the same as a JSON list (vLLM's way), or `*`.

    `localhost` (llama.cpp's way) names what is allowed anyway.
    """
    if isinstance(text, tuple):
        return text
    try:
        parts = msgspec.json.decode(text, type=list[str]) if text.startswith("[") else text.split(",")
    except msgspec.MsgspecError:
        raise typer.BadParameter(f"{text!r} is no JSON list of origins") from None
    origins = tuple(part.strip().rstrip("/").lower() for part in parts if part.strip() not in ("", "localhost"))
    for origin in origins:
        if origin != "*" and re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+", origin) is None:
            raise typer.BadParameter(f"{origin!r} is no origin; write for example https://example.com, or *")
    return origins


def parse_names(text: str | tuple[str, ...]) -> tuple[str, ...]:
    """`one,other`"""
    names = text if isinstance(text, tuple) else tuple(name.strip() for name in text.split(","))
    return tuple(name for name in names if name)


def _page_size(value: int) -> int:
    if value < 1 or value > 1024 or value & (value - 1):
        raise typer.BadParameter(f"{value} is not a power of two from 1 to 1024; 16 is usual")
    return value


def _file(value: str) -> str:
    if value and not Path(value).is_file():
        raise typer.BadParameter(f"there is no file {value!r}")
    return value


def _share(value: float) -> float:
    if not 0.0 < value <= 1.0:
        raise typer.BadParameter(f"{value:g} is not a share: give more than 0 and at most 1, for example 0.9")
    return value


def _below_one(value: float) -> float:
    if not 0.0 <= value < 1.0:
        raise typer.BadParameter(f"{value:g} is not a share below 1: give 0 or more, for example 0.05")
    return value


def _api_key(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """An empty key would guard nothing, although one was asked for."""
    source = context.get_parameter_source(str(parameter.name))
    given = source is not None and source.name != "DEFAULT"
    if not value.strip() and (given or "GLLM_API_KEY" in os.environ):
        raise typer.BadParameter("the key is empty: give one, or leave out --api-key and unset GLLM_API_KEY")
    if any(character.isspace() or not character.isprintable() for character in value):
        raise typer.BadParameter("the key has a character that no header can carry, such as white space at its end")
    return value


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One setting of `ModelSource`, `EngineConfig`, `GatewayConfig` or `NodesConfig` on the command line."""

    owner: type[ModelSource] | type[EngineConfig] | type[GatewayConfig] | type[NodesConfig]
    name: str
    """The setting's field."""
    panel: str
    help: str
    spelling: str = ""
    """Empty: the field's name in kebab case."""
    least: float | None = None
    most: float | None = None
    shown_default: str | bool = True
    parse: Callable[[str], Any] | None = None
    check: Callable[..., Any] | None = None
    envvar: str | None = None
    metavar: str | None = None
    optional: bool = False
    """Without the flag its value is None, so that one can tell that it was not given."""

    @property
    def option(self) -> str:
        """As typer takes it: `--name`, or `--name/--no-name`."""
        return self.spelling or "--" + self.name.replace("_", "-")

    @property
    def default(self) -> Any:
        """The value that a command gets when the flag is not given."""
        if self.optional:
            return None
        return next(field.default for field in msgspec.structs.fields(self.owner) if field.name == self.name)

    def parameter(self) -> inspect.Parameter:
        """The function parameter from which typer makes the flag; type and default are the setting's own."""
        default = self.default
        option = typer.Option(
            self.option,
            help=self.help,
            rich_help_panel=self.panel,
            min=self.least,
            max=self.most,
            show_default=self.shown_default,
            parser=self.parse,
            metavar=self.metavar or ("SIZE" if self.parse is not None else None),
            callback=self.check,
            envvar=self.envvar,
            show_envvar=self.envvar == "GLLM_API_KEY",
        )
        kind: Any = get_type_hints(self.owner)[self.name]
        if self.optional:
            kind = kind | None
        elif self.parse is not None and not isinstance(default, int):
            kind, default = str, ""  # What the parser takes.
        annotation = Annotated[kind, option]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


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
    _engine("dtype", "Model", "Of weights, activations and KV; auto is the checkpoint's own, where the device has it."),
    _engine("load_format", "Model", "dummy: random weights from config.json alone, to measure speed."),
    _engine("max_model_len", "Model", "Longest prompt + output in tokens.", least=0, shown_default="what fits"),
    _engine("replay", "Model", "Launch every kernel, instead of recording a step once (CUDA graphs) and replaying it.",
            spelling=" /--enforce-eager", shown_default=False),
    _engine("attention_backend", "Model", "The attention kernels; auto takes the fastest that runs here."),
    _engine("seed", "Model", "Of dummy weights.", least=0),
    _engine("max_num_seqs", "Memory", "Most requests that run at once.", least=1, most=65536),
    _engine("page_size", "Memory", "Tokens in a page of the KV cache.", check=_page_size),
    _engine("num_pages", "Memory", "Pages of the KV cache.", least=0, shown_default="from the memory budget"),
    _engine("kv_cache_memory", "Memory", "Memory of the KV cache on a CPU, such as 512M or 2G.",
            parse=parse_bytes, shown_default="a share of what is free"),
    _engine("gpu_memory_utilization", "Memory", "Share of a GPU's memory for weights, KV cache and all else.",
            check=_share),
    _engine("enable_prefix_caching", "Memory", "Whether requests share the KV of prompts that begin alike.",
            spelling="--prefix-caching/--no-prefix-caching"),
    _engine("policy", "Scheduling",
            "How much of which request goes into the next step: by tokens (token_throttling, and its ablations "
            "no_wt and no_ut), by predicted time (balanced), or decodes first (chunked_prefill, decode_cap)."),
    _engine("max_prefill_tokens", "Scheduling",
            "Most prompt tokens in a step (chunked_prefill, decode_cap: most tokens of any kind).", least=1),
    _engine("min_prefill_tokens", "Scheduling", "Fewest prompt tokens worth a step, if so many wait.", least=1),
    _engine("prefill_iterations", "Scheduling", "Steps over which the waiting prompt tokens are spread.", least=1),
    _engine("kv_threshold", "Scheduling", "Share of the KV cache that new prompts leave free.", check=_below_one),
    _engine("ttft_target", "Scheduling", "balanced: seconds to first token to steer for; fewer prompt tokens a step if "
            "there is time.", least=0, shown_default="none"),
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
    _engine("step_timeout", "Process", "Seconds without a step's result after which the group starts anew.", least=1),
)  # fmt: skip

GATEWAY_FLAGS: tuple[Flag, ...] = (
    _gateway("chat_template", "Model", "A Jinja file that replaces the model's own chat template.", check=_file),
    _gateway(
        "allow_special_tokens",
        "Model",
        "A special token that is spelled in a chat message is that token; without this flag it is text.",
    ),
    _gateway("tool_parser", "Model", "Format of the model's tool calls; auto reads it off the chat template."),
    _gateway("reasoning_parser", "Model", "How to split reasoning from the answer; auto knows by the model."),
    _gateway("generation_config", "Model", "auto: sampling defaults come from the model's generation_config.json."),
    _gateway("host", "HTTP", "Address to listen on; 0.0.0.0 is every network the machine is in."),
    _gateway("port", "HTTP", "Port to listen on.", least=0, most=65535),
    _gateway("served_model_name", "HTTP", "The model's name in requests.",
             shown_default="the name on the hub, or the last part of a path"),
    _gateway("served_model_aliases", "HTTP", "More names that requests may give.", spelling="--served-model-alias",
             parse=parse_names, metavar="NAME,...", shown_default="none"),
    _gateway("api_key", "HTTP", "Requests must bear this key, all but /health and /ready.",
             check=_api_key, envvar="GLLM_API_KEY", shown_default="no key"),
    _gateway("allowed_origins", "HTTP", "Web pages that may use the server, such as https://example.com; * is all.",
             parse=parse_origins, metavar="ORIGIN,...", shown_default="pages on localhost"),
    _gateway("max_queued_requests", "HTTP", "Requests that may wait; more are refused with 429.", least=0),
    _gateway("max_queued_tokens", "HTTP", "Prompt tokens that may wait; more are refused with 429.",
             least=0, shown_default="no bound"),
    _gateway("drain_timeout", "Process", "Seconds that running requests get to finish after SIGTERM.", least=0),
    _gateway("log_requests", "Process", "Log a line for every request, without its content."),
)  # fmt: skip

PROMPT_FLAGS = tuple(
    flag for flag in GATEWAY_FLAGS if flag.name in ("chat_template", "allow_special_tokens", "generation_config")
)
"""Those that `LLM` heeds too."""


def takes_flags(*flags: Flag) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a typer command these flags; their values reach its parameter `flags` as a dict, for `make_config`.

    @app.command()
    @takes_flags(*ENGINE_FLAGS)
    def chat(model: ModelArgument = "", *, flags: dict[str, Any]) -> None: ...
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters.values()
        parameters = [flag.parameter() for flag in flags]
        parameters += [parameter for parameter in own if parameter.name != "flags"]
        parameters.sort(key=lambda parameter: parameter.kind)  # Positional ones first; the sort is stable.

        def command(**values: Any) -> None:
            taken = {flag.name: values.pop(flag.name) for flag in flags}
            function(**values, flags=taken)

        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        vars(command)["__signature__"] = inspect.Signature(parameters)
        return command

    return decorate
