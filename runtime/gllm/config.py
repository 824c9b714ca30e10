"""Settings of a process group as plain data; each process gets them as JSON in its environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import msgspec

CONFIG_VARIABLE = "GLLM_CONFIG"

PolicyName = Literal["token_throttling", "balanced", "chunked_prefill", "decode_cap", "no_wt", "no_ut"]
POLICY_NAMES: tuple[PolicyName, ...] = get_args(PolicyName)
Dtype = Literal["float32", "bfloat16", "float16"]
DtypeChoice = Literal["auto", Dtype]
Routing = Literal["prefix", "round-robin"]
LogLevel = Literal["debug", "info", "warning", "error"]


class ModelSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Revision and download folder of a model that is given by its name on the Hugging Face hub."""

    revision: str = ""
    """Branch, tag or commit; empty: main."""
    download_dir: str = ""
    """Folder for downloads; empty: Hugging Face's own cache."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the engine and the workers."""

    model: str
    """A Hugging Face folder or a GGUF file."""
    load_format: Literal["auto", "dummy"] = "auto"
    """dummy: random weights from `config.json` alone, for benchmarks."""
    dtype: DtypeChoice = "auto"
    """auto: the checkpoint's dtype (bfloat16 for a quantized GGUF); float32 on a CPU without AVX-512 BF16."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention_backend: Literal["auto", "reference", "native", "flashinfer"] = "auto"
    enforce_eager: bool = False
    """Launch kernels one by one. Otherwise steps run as captured graphs: decode steps with flashinfer, all steps with
    native."""
    threads: int = 0
    """CPU threads of a worker; 0: the cores that the process may use, divided among the workers of the node."""

    max_model_len: int = 0
    """Maximum of prompt + output, in tokens; 0: as many as the model and the KV pool allow."""
    page_size: int = 16
    """Tokens in a KV page."""
    num_pages: int = 0
    """Number of KV pages; 0: as many as the memory budget allows."""
    kv_cache_memory: int = 0
    """Bytes for the KV pages of a rank; 0: see `gllm.worker.memory.kv_pages`."""
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 256
    enable_prefix_caching: bool = True

    policy: PolicyName = "balanced"
    max_prefill_tokens: int = 2048
    """#MaxP: maximum of prefill tokens in a micro-batch (for chunked_prefill and decode_cap: of all tokens)."""
    min_prefill_tokens: int = 32
    """#MinP: minimum of prefill tokens in a micro-batch."""
    prefill_iterations: int = 8
    """#T: iterations over which waiting prefill tokens are spread."""
    kv_threshold: float = 0.05
    """KV_thresh: share of the pool kept free of new prefill."""
    ttft_target: float = 0.0
    """Time to first token that `balanced` aims for, in seconds; 0: waiting prompts are spread over #T iterations."""
    tpot_target: float = 0.0
    """Time per output token to which every policy cuts prefill, in seconds; 0: a micro-batch with decodes is predicted
    to last at most 0.25 s."""
    trace: str = ""
    """File for a Chrome/Perfetto trace of the stages; empty: none."""
    seed: int = 0

    pp: int = 1
    """Pipeline stages: the layers are divided between them."""
    tp: int = 1
    """Tensor-parallel ranks of a stage: heads and columns are divided between them."""
    ep: int = 1
    """Expert-parallel groups of a stage's experts, a divisor of tp. 1: every rank holds a slice of each expert;
    tp: every rank holds whole experts and tokens travel to them (all-to-all)."""
    assigned_layers: tuple[int, ...] = ()
    """Layers of each stage; empty: divided by estimated stage time."""

    step_timeout: float = 300.0
    """Seconds without a result after which a step in flight counts as hung and the group restarts."""

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.pp * self.tp


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the gateway."""

    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str = ""
    """The model's name in answers. Empty: the last part of the model's path."""
    served_model_aliases: tuple[str, ...] = ()
    """More names for requests."""
    api_key: str = ""
    """Empty: no authentication."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may use the server, in addition to localhost; `*`: all."""
    chat_template: str = ""
    """Path of a Jinja file that replaces the model's own template."""
    allow_special_tokens: bool = False
    """Whether the text of a special token in a chat message becomes that token; otherwise it stays text."""
    tool_parser: Literal["auto", "hermes", "llama", "none"] = "auto"
    reasoning_parser: Literal["auto", "qwen3", "none"] = "auto"
    generation_config: Literal["auto", "none"] = "auto"
    """auto: sampling defaults come from the model's generation_config.json or GGUF header."""
    max_queued_requests: int = 1024
    """Maximum number of choices (`n` of a request) that wait beyond max_num_seqs; more are refused with 429."""
    max_queued_tokens: int = 0
    """Maximum of prompt tokens that wait for prefill; 0: no limit."""
    max_body_bytes: int = 16 * 1024 * 1024
    drain_timeout: float = 60.0
    """Seconds, after drain_delay, that a drain may take."""
    drain_delay: float = 0.0
    """Seconds at the start of a drain in which new connections are served, because a load balancer still sends some."""
    log_requests: bool = False
    ui: bool = True
    """Whether browsers get the web page at `/`."""
    otlp_endpoint: str = ""
    """URL of the collector to which the gateway and the engine send traces, with OTLP over HTTP; empty: none."""
    engines: tuple[tuple[str, int], ...] = ()
    """Host and port of engines on other machines. Empty: the engine of the own group."""
    engine_timeout: float = 120.0
    """Seconds that a request waits while none of `engines` serves."""
    routing: Routing = "prefix"
    """How a request's engine is chosen: by cached prefix and predicted wait, or in turns."""
    keys_file: str = ""
    """The keys for `engines`; empty: those of the environment."""
    wait_for_engine: bool = False
    """Whether requests wait also before one of `engines` has served; otherwise they are refused until then."""

    @property
    def drain_seconds(self) -> float:
        """The longest time of a drain."""
        return self.drain_delay + self.drain_timeout


class NodesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The group's nodes (machines or pods). TP stays within a node, PP crosses nodes."""

    launch_mode: Literal["normal", "master", "slave"] = "normal"
    """normal: one node. master: gateway, engine and the first stages; slave: workers of later stages only."""
    nnodes: int = 1
    node_rank: int = 0
    master_addr: str = "127.0.0.1"
    """Address or DNS name of the master's node."""
    master_port: int = 29500
    """First of three ports on the master: the supervisors' link, the engine's socket for workers (+1), and the
    rendezvous of torch.distributed (+2)."""
    node_addr: str = ""
    """This node's own address, which it binds; empty: its address on the route to the master."""
    engine_port: int = 0
    """Port on which the engine also serves gateways of other machines (`gllm gateway`); 0: none."""
    join_timeout: float = 600.0
    """Seconds that a slave may take to find the master, and that the master waits for all nodes before it first
    serves."""
    heartbeat_interval: float = 0.5
    heartbeat_timeout: float = 5.0
    """Seconds without a message after which the other end of the supervisors' link counts as lost."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a process group; the supervisor passes them to each process."""

    engine: EngineConfig
    gateway: GatewayConfig = GatewayConfig()
    nodes: NodesConfig = NodesConfig()
    run_dir: str = ""
    """The folder of the group's Unix sockets, mode 0700."""
    epoch: int = 0
    """Increases with each restart of the engine; messages of an earlier epoch are refused."""
    log_level: LogLevel = "info"
    others: tuple[Config, ...] = ()
    """Further models of a gateway in front of several engines (`--also`). Of each only the model counts and what
    `gateway` says of it; the server's settings are here."""

    @classmethod
    def from_environment(cls) -> Config:
        return msgspec.json.decode(os.environ[CONFIG_VARIABLE], type=cls)

    def to_environment(self) -> dict[str, str]:
        return {CONFIG_VARIABLE: msgspec.json.encode(self).decode()}

    @property
    def control_address(self) -> str:
        """The supervisor's ROUTER: it receives ProcessStatus and sends Drain, EngineUp, EngineDown and Loading."""
        return f"ipc://{Path(self.run_dir)}/control.sock"

    @property
    def engine_address(self) -> str:
        """The engine's ROUTER for gateways. Its name has the epoch, so that no engine gets old messages."""
        return self.engine_address_of(self.epoch)

    def engine_address_of(self, epoch: int) -> str:
        return f"ipc://{Path(self.run_dir)}/engine-{epoch}.sock"

    @property
    def engine_link_address(self) -> str:
        """The engine's ROUTER for gateways of other machines; empty: none."""
        host = self.nodes.node_addr or (self.nodes.master_addr if self.nodes.nnodes > 1 else "127.0.0.1")
        return tcp_address(host, self.nodes.engine_port) if self.nodes.engine_port else ""

    @property
    def worker_address(self) -> str:
        """The address to which workers connect, with the identity `gllm.wire.transport.worker_identity`."""
        return self._worker_address(self.nodes.master_addr)

    @property
    def worker_bind_address(self) -> str:
        """The address that the engine, on the master's node, binds for workers."""
        return self._worker_address(self.nodes.node_addr or self.nodes.master_addr)

    def _worker_address(self, host: str) -> str:
        if self.nodes.nnodes > 1:
            return tcp_address(host, self.nodes.master_port + 1)
        return f"ipc://{Path(self.run_dir)}/workers-{self.epoch}.sock"


def tcp_address(host: str, port: int) -> str:
    """Return a ZeroMQ address; an IPv6 host gets brackets."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
