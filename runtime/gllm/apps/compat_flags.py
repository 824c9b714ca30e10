"""Flags of vLLM and SGLang: which have a counterpart in `gllm serve`, which change nothing, which are refused.

The command line and the operator read this table, so it needs no typer. `gllm.apps.cli.compat_flags_docs` makes the
tables of docs/coming-from-vllm.md from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ANY = ("*",)
"""Every value."""

MODEL = "MODEL"
"""The positional argument."""


@dataclass(frozen=True)
class CompatFlag:
    """One or more flags with the same meaning, their names separated by spaces.

    `--mm-*` is every flag that begins with --mm- and has no row of its own.
    """

    vllm: str
    sglang: str
    ours: str = ""
    """The flag here, or MODEL. Empty: there is none."""
    note: str = ""
    """The difference; for a flag that is refused, the reason and what to do instead."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Their value to ours, where the words differ."""
    ignored: tuple[str, ...] | None = None
    """For a flag without `ours`. None: it is refused. (): a switch that changes nothing. Else the values that change
    nothing; others are refused."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f"{self.vllm} {self.sglang}".split()))


def _renamed(ours: str, vllm: str, sglang: str = "", note: str = "", /, **values: str) -> CompatFlag:
    return CompatFlag(vllm, sglang, ours, note, values)


def _ignored(vllm: str, sglang: str, note: str, *values: str) -> CompatFlag:
    return CompatFlag(vllm, sglang, note=note, ignored=values)


def _refused(vllm: str, sglang: str, note: str) -> CompatFlag:
    return CompatFlag(vllm, sglang, note=note)


COMPAT_FLAGS: tuple[CompatFlag, ...] = (
    # --- the model
    _renamed(MODEL, "--model", "--model --model-path", "the positional argument of every command"),
    _renamed("--served-model-name", "--served-model-name", "--served-model-name",
             "several names after MODEL are --served-model-alias for all but the first"),
    _renamed("--dtype", "--dtype", "--dtype", half="float16", float="float32"),
    _renamed("--max-model-len", "--max-model-len", "--context-length", "32k and 32K as with vLLM",
             **{"auto": "0", "-1": "0"}),
    _renamed("--load-format", "--load-format", "--load-format", safetensors="auto", gguf="auto"),
    _renamed("--attention-backend", "--attention-backend", "--attention-backend",
             FLASHINFER="flashinfer", TORCH_SDPA="reference", torch_native="reference"),
    _renamed("--seed", "--seed", "--random-seed", "of dummy weights only; a request's `seed` seeds its sampling"),
    _renamed("--chat-template", "--chat-template", "--chat-template", "a Jinja file"),
    _renamed("--tool-parser", "--tool-call-parser", "--tool-call-parser",
             llama3_json="llama", llama3="llama", qwen25="hermes", qwen="hermes"),
    _renamed("--reasoning-parser", "--reasoning-parser", "--reasoning-parser", "all of these read <think>",
             **{"qwen3-thinking": "qwen3", "deepseek_r1": "qwen3", "deepseek-r1": "qwen3"}),
    _renamed("--generation-config", "--generation-config", "--sampling-defaults",
             vllm="none", model="auto", openai="none"),
    _ignored("--enable-auto-tool-choice --enable-reasoning", "", "tools and reasoning work without it"),
    _ignored("--tokenizer-mode", "--tokenizer-mode", "the tokenizer is the model's own tokenizer.json", "auto", "hf"),
    _ignored("--task --runner", "", "this server generates", "auto", "generate"),
    _ignored("--model-impl", "--model-impl", "there is one implementation of each model", "auto", "vllm", "sglang"),
    _ignored("--chat-template-content-format", "--chat-template-content-format", "found out from the template", *ANY),
    _ignored("--response-role", "", "the role of an answer is assistant", "assistant"),
    _ignored("--ignore-patterns", "", "only the files that are needed are downloaded", *ANY),
    _ignored("--max-logprobs", "", "20 as with OpenAI", "20"),
    _ignored("--max-parallel-loading-workers --safetensors-load-strategy", "", "each rank reads its own part",
             *ANY),
    _ignored("--quantization -q", "--quantization", "what a checkpoint holds is read from it; FP8, AWQ and GPTQ "
             "weights are not supported, GGUF files are", "none", "gguf"),
    _refused("--trust-remote-code", "--trust-remote-code", "code from a model folder is never run, and the supported "
             "models need none: leave it out"),
    _refused("--tokenizer --tokenizer-revision", "--tokenizer-path", "the tokenizer is read from the model's folder or "
             "GGUF file: put tokenizer.json there"),
    _refused("--skip-tokenizer-init", "--skip-tokenizer-init", "the server needs the tokenizer; a request may give "
             "token ids as its prompt"),
    _refused("--hf-overrides --rope-scaling --rope-theta", "--json-model-override-args", "change config.json in a copy "
             "of the model's folder"),
    _refused("--hf-token", "", "set HF_TOKEN in the environment, where other users of the machine do not see it"),
    _refused("--model-loader-extra-config", "--model-loader-extra-config", "files are read as they are"),
    _refused("--default-chat-template-kwargs", "", "send chat_template_kwargs with the requests"),
    _refused("--trust-request-chat-template", "--hf-chat-template-name", "it is the model's, or --chat-template"),
    _refused("--tool-parser-plugin --reasoning-parser-plugin --logits-processors --logits-processor-pattern "
             "--io-processor-plugin", "--enable-custom-logit-processor", "there are no plugins"),
    _refused("--enable-prompt-embeds", "", "a prompt is text or token ids"),
    _refused("--hf-config-path --config-format --code-revision", "", "config.json is read from the model's folder"),
    _refused("--override-generation-config", "--preferred-sampling-params", "change generation_config.json in a copy "
             "of the model's folder, or send the fields with each request"),
    _refused("--enable-lora --lora-* --max-loras --max-lora-rank --max-cpu-loras",
             "--enable-lora --lora-* --max-loras-per-batch --max-lora-rank", "LoRA adapters are not supported: "
             "merge the adapter into the model"),
    _refused("--limit-mm-per-prompt --mm-* --allowed-local-media-path", "--enable-multimodal --mm-*",
             "this server reads text only"),
    _refused("--mamba-*", "--mamba-*", "no model with such layers is supported"),
    _refused("", "--is-embedding", "this server generates text only"),
    _refused("--speculative-* --spec-* --num-speculative-tokens", "--speculative-*", "speculative decoding is "
             "not supported"),
    # --- parallelism
    _renamed("--tp", "--tensor-parallel-size -tp", "--tensor-parallel-size --tp-size"),
    _renamed("--pp", "--pipeline-parallel-size -pp", "--pipeline-parallel-size --pp-size"),
    _renamed("--ep", "--enable-expert-parallel", "", "as many groups as --tp has ranks"),
    _renamed("--ep", "", "--expert-parallel-size --ep-size"),
    _renamed("--nnodes", "--nnodes -n", "--nnodes"),
    _renamed("--node-rank", "--node-rank -r", "--node-rank"),
    _renamed("--master-addr", "--master-addr", "", "with `--launch-mode master` or `slave`"),
    _renamed("--master-addr", "", "--dist-init-addr --nccl-init-addr", "HOST:PORT also sets --master-port"),
    _ignored("--distributed-executor-backend", "", "each rank is a process; nodes join with --launch-mode "
             "(docs/multi-node.md), without Ray", "mp", "uni"),
    _ignored("--data-parallel-size -dp", "--data-parallel-size --dp-size --dp", "start one server for each replica, or "
             "set spec.replicas on Kubernetes", "1"),
    _refused("--data-parallel-*", "", "start one server for each replica, or set spec.replicas on Kubernetes"),
    _ignored(
        "--disable-custom-all-reduce",
        "--disable-custom-all-reduce",
        "small sums use peer memory over NVLink; NCCL_P2P_DISABLE=1 leaves all to NCCL",
    ),
    _ignored("--api-server-count", "", "one gateway serves a group", "1"),
    _refused("--enable-eplb --eplb-config --num-redundant-experts --expert-placement-strategy --all2all-backend",
             "--enable-eplb --eplb-* --ep-num-redundant-experts --moe-a2a-backend", "experts are divided evenly by "
             "--ep"),
    _refused("--headless", "", "the nodes after the first are started with --launch-mode slave (docs/multi-node.md)"),
    _refused("--worker-use-ray --ray-workers-use-nsight", "--use-ray", "there is no Ray here: nodes join with "
             "--launch-mode (docs/multi-node.md)"),
    _refused("--decode-context-parallel-size -dcp --prefill-context-parallel-size", "--enable-dp-attention",
             "attention is divided by heads (--tp) and layers (--pp) only"),
    _refused("--kv-transfer-config --ec-transfer-config", "--disaggregation-*", "prompts and answers "
             "are computed by the same workers"),
    # --- memory
    _renamed("--gpu-memory-utilization", "--gpu-memory-utilization", "--mem-fraction-static",
             "the share for weights, KV cache and all else"),
    _renamed("--kv-cache-memory", "--kv-cache-memory-bytes", "", ""),
    _renamed("--page-size", "--block-size", "--page-size"),
    _renamed("--num-pages", "--num-gpu-blocks-override"),
    _renamed("--max-num-seqs", "--max-num-seqs", "--max-running-requests"),
    _renamed("--prefix-caching", "--enable-prefix-caching", "", "the default"),
    _renamed("--no-prefix-caching", "--no-enable-prefix-caching", "--disable-radix-cache"),
    _ignored("--kv-cache-dtype", "--kv-cache-dtype", "the KV cache has the type of --dtype", "auto"),
    _ignored("--swap-space", "", "nothing is swapped: a preempted request is computed again", "0"),
    _ignored("--cpu-offload-gb", "--cpu-offload-gb", "weights stay where they are computed with; --pp and --tp divide "
             "them", "0"),
    _ignored("--preemption-mode", "", "a request that is preempted is computed again", "recompute"),
    _ignored("--use-v2-block-manager --disable-hybrid-kv-cache-manager", "", "there is one manager of pages"),
    _ignored("--prefix-caching-hash-algo", "--radix-eviction-policy", "the least recently used page goes first",
             "builtin", "sha256", "sha256_cbor", "xxhash", "lru"),
    _refused("--enable-sleep-mode", "--enable-memory-saver", "end the server to free its memory"),
    _refused("", "--max-total-tokens", "write --num-pages: that many tokens divided by --page-size"),
    _refused("--calculate-kv-scales", "--quantization-param-path", "the KV cache is not quantized"),
    _ignored("--disable-sliding-window", "", "a model with a sliding window runs within its window"),
    _refused("--kv-offloading-*", "--enable-hierarchical-cache --hicache-*", "the KV cache has one tier"),
    # --- scheduling
    _renamed("--max-prefill-tokens", "--max-num-batched-tokens", "--chunked-prefill-size --max-prefill-tokens",
             "prompt tokens of a step; with --policy chunked_prefill all its tokens"),
    _renamed("--enforce-eager", "--enforce-eager", "--disable-cuda-graph"),
    _ignored("--scheduling-policy", "--schedule-policy", "requests are served by priority, then as they came; what a "
             "step holds is decided by --policy", "fcfs", "priority"),
    _ignored("--enable-chunked-prefill", "--enable-mixed-chunk", "long prompts are always cut into chunks"),
    _ignored("--async-scheduling --no-async-scheduling", "--disable-overlap-schedule", "always scheduled ahead"),
    _ignored("--compilation-config -cc --optimization-level -O --max-cudagraph-capture-size "
             "--max-seq-len-to-capture", "--cuda-graph-max-bs", "the sizes of CUDA graphs are chosen by --max-num-seqs",
             *ANY),
    _ignored("", "--enable-torch-compile", "kernels are not compiled at start"),
    _ignored("", "--schedule-conservativeness --num-continuous-decode-steps", "--policy decides", *ANY),
    _ignored("--num-scheduler-steps", "", "steps are always scheduled ahead", *ANY),
    _ignored("", "--enable-metrics --enable-cache-report", "always on"),
    _ignored("", "--skip-server-warmup", "there is no such request"),
    _ignored("--guided-decoding-backend --structured-outputs-config", "--grammar-backend",
             "grammars are llguidance's", *ANY),
    _ignored("", "--schedule-low-priority-values-first", "the lowest value comes first"),
    _refused("", "--enable-priority-scheduling", "requests always have priorities, the lowest value first: leave it "
             "out, and turn the sign of your priorities"),
    _refused("", "--enable-deterministic-inference", "a seed repeats its draws alone, in a batch and after preemption; "
             "sums may round differently"),
    _ignored("--stream-interval", "--stream-interval", "each token is sent when it is there", "1"),
    _refused("--no-enable-chunked-prefill", "", "long prompts are always cut into chunks; --max-prefill-tokens says "
             "how long a chunk may be"),
    _refused("--max-num-partial-prefills --long-prefill-token-threshold --max-long-partial-prefills", "",
             "--policy and --max-prefill-tokens decide which prompts share a step (docs/scheduling.md)"),
    # --- HTTP
    _renamed("--host", "--host", "--host"),
    _renamed("--port", "--port", "--port"),
    _renamed("--api-key", "--api-key", "--api-key"),
    _renamed("--max-queued-requests", "", "--max-queued-requests"),
    _renamed("--drain-timeout", "--shutdown-timeout"),
    _refused("--root-path", "--fastapi-root-path", "let the proxy in front remove the prefix"),
    _refused("--ssl-keyfile --ssl-certfile --ssl-ca-certs --ssl-cert-reqs", "--ssl-keyfile --ssl-certfile",
             "let a proxy in front end TLS"),
    _refused("--allow-credentials --allowed-methods --allowed-headers", "", "not needed: the key travels in a header"),
    _refused("--middleware", "", "put a proxy in front"),
    _refused("--return-tokens-as-token-ids", "", "a request asks for it"),
    # --- the process
    _renamed("--log-level", "--uvicorn-log-level", "--log-level", critical="error", trace="debug"),
    _renamed("--log-requests", "--enable-log-requests", "--log-requests"),
    _renamed("--step-timeout", "", "--watchdog-timeout"),
    _renamed("--revision", "--revision", "--revision"),
    _renamed("--download-dir", "--download-dir", "--download-dir"),
    _ignored("--disable-log-requests --no-enable-log-requests --disable-log-stats --disable-uvicorn-access-log", "",
             "the default; numbers are at /metrics"),
    _ignored("--max-log-len", "--log-requests-level --log-level-http", "contents of requests are never logged", *ANY),
    _ignored("--disable-frontend-multiprocessing --enable-prompt-tokens-details --enable-server-load-tracking "
             "--enable-tokenizer-info-endpoint", "--sleep-on-idle",
             "always so"),
    _ignored("", "--decode-log-interval", "there is no such log", *ANY),
    _refused("", "--grpc-mode", "this server speaks HTTP"),
    _refused("", "--admin-api-key", "one key guards everything"),
    _refused("", "--allow-auto-truncate", "a request asks for it: truncate_prompt_tokens"),
    _ignored("", "--tokenizer-worker-num --detokenizer-worker-num", "threads of the gateway", *ANY),
    _ignored("", "--nccl-port", "--master-port decides", *ANY),
    _refused("--config", "--config", "give the flags themselves, or a manifest to `gllm run -f`"),
    _renamed("--otlp-endpoint", "--otlp-traces-endpoint", "--otlp-traces-endpoint",
             "OTLP over HTTP (port 4318), not gRPC; spans of the engine and of the stages are always there"),
    _ignored("", "--enable-trace", "--otlp-endpoint turns traces on"),
    _refused("--collect-detailed-traces", "", "--otlp-endpoint sends spans of all stages without it"),
)  # fmt: skip

_BY_NAME = {name: row for row in COMPAT_FLAGS for name in row.names}
_BY_BEGINNING = {name[:-1]: row for name, row in _BY_NAME.items() if name.endswith("*")}


def dashed(name: str) -> str:
    """Return `--max-model-len` for `--max_model_len`."""
    return name.replace("_", "-") if name.startswith("--") else name


def find(name: str) -> CompatFlag | None:
    """Return the row of a flag of vLLM or SGLang, or of the same name here. --flag.key has the row of --flag."""
    name = dashed(name).partition(".")[0]
    return _BY_NAME.get(name) or next((row for begin, row in _BY_BEGINNING.items() if name.startswith(begin)), None)


def canonical(name: str) -> str:
    """Return the name of a flag here; its own name if it is not in the table or has no counterpart."""
    row = find(name)
    return row.ours if row is not None and row.ours else dashed(name)
