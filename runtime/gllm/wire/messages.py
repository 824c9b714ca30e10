"""All messages between processes: a closed set of msgspec structs, encoded as MessagePack.

`gllm.wire.node_messages` has the messages between the supervisors of two nodes. There is no pickle: decoding is typed,
unknown tags and fields are refused, and the transport bounds the size. Messages with many fields take keywords only.

    gateway  -> engine      Connect | Submit | Abort | Leave | Watch
    engine   -> gateway     Hello | RequestOutputs | CachedPages | PipelineEvents
    engine   -> worker      Configure | PrepareGrammar | DropGrammar | SchedulerOutput | Stop
    worker   -> engine      Capacity | Ready | GrammarReady | StepResult | StageReport | WorkerFailed
    process  -> supervisor  ProcessStatus
    supervisor -> process   EngineUp | EngineDown | Loading | Drain
"""

from __future__ import annotations

import msgspec

from gllm.sampling_params import SamplingParams
from gllm.wire.base import Message
from gllm.wire.forecast import PrefillForecast
from gllm.wire.origin import NO_ORIGIN, Origin
from gllm.wire.pipeline_events import PipelineEvents, Watch

# --- gateway -> engine ---------------------------------------------------------------------------


class Connect(Message):
    """A gateway, or an offline `LLM`, asks for `Hello`."""


class Submit(Message, kw_only=True):
    request_id: str
    """Chosen by the gateway, unique while the engine runs."""
    token_ids: list[int]
    """The prompt and, after a restart, the tokens that an earlier engine generated."""
    sampling: SamplingParams
    priority: int = 0
    """Smaller first (vLLM's convention)."""
    cache_salt: str = ""
    num_generated: int = 0
    """The number of tokens at the end of `token_ids` that an earlier engine generated. Outputs begin after them; limits
    count them as output."""
    origin: Origin = NO_ORIGIN


class Abort(Message):
    request_ids: list[str]


class Leave(Message):
    """The group will end: the engine tells all its gateways, and they send it no new requests."""


# --- engine -> gateway ---------------------------------------------------------------------------


class TokenLogprob(msgspec.Struct, array_like=True, kw_only=True):
    """Log-probability of one token and of alternatives, from the unmodified logits."""

    token_id: int
    logprob: float
    rank: int
    """1 is the most likely token."""
    top: list[tuple[int, float]]
    """(token id, logprob), most likely first, or in the order of `SamplingParams.logprob_token_ids`."""


class RequestOutput(msgspec.Struct, array_like=True, kw_only=True):
    """The tokens that one step added to one request. The last output of a request has a `finish_reason`."""

    request_id: str
    token_ids: list[int]
    finish_reason: str | None = None
    """stop, length, abort or error."""
    stop_token_id: int | None = None
    """The EOS or stop token that ended the request (it is the last of `token_ids`)."""
    error: str | None = None
    logprobs: list[TokenLogprob] | None = None
    """One entry for each of `token_ids`."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """One entry for each prompt token, None for the first; sent once, with the first token."""
    num_cached_tokens: int = 0
    """Prompt tokens found in the prefix cache."""
    queue_time: float = 0.0
    """Seconds from the arrival to the first step; sent with the first token."""
    prefill_time: float = 0.0
    """Seconds from the first step to the first token; sent with it."""
    num_preemptions: int = 0
    invalid_request: bool = False
    """Whether the client caused the error, for example with an impossible grammar; then the text is for the client."""


MICROBATCH_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Inclusive upper bounds of the buckets of micro-batches, in tokens."""
ITERATION_EDGES = (1, *MICROBATCH_EDGES[1:])
"""Inclusive upper bounds of the buckets of steps, in tokens; vLLM's edges of `iteration_tokens_total`."""


class TokenHistogram(msgspec.Struct, array_like=True):
    """Histogram of the tokens of micro-batches or steps since the engine's start."""

    counts: list[int] = []
    """The number in each bucket, not cumulative; the last bucket is above all edges."""
    total: int = 0
    """The sum of the tokens."""


class StageStats(msgspec.Struct, array_like=True, kw_only=True):
    """Recent activity of one stage; `gllm.engine.meter` defines the shares."""

    busy: float = 0.0
    """Share of the time in which it computed, 0 to 1."""
    bubble: float = 0.0
    """Share of the time with a micro-batch in flight in which it did not compute, 0 to 1."""
    step_time: float = 0.0
    """Seconds of its last step."""
    prediction_error: float = 0.0
    """Mean of |predicted - measured| / measured step time."""


class EngineStats(msgspec.Struct, array_like=True, kw_only=True):
    """A snapshot for metrics and health. Counters begin at the engine's start."""

    step: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_deferred: int = 0
    """The part of `num_waiting` that waits for grammars."""
    num_waiting_tokens: int = 0
    """Prompt tokens not yet computed."""
    forecast: PrefillForecast = PrefillForecast()
    kv_usage: float = 0.0
    """Share of KV pages held by live requests, 0 to 1."""
    num_preemptions: int = 0
    prefix_cache_queries: int = 0
    """Prompt tokens looked up."""
    prefix_cache_hits: int = 0
    """Prompt tokens found."""
    step_time: float = 0.0
    """Seconds of the last step on the last stage."""
    num_inflight: int = 0
    """Micro-batches in flight."""
    seconds_since_progress: float = 0.0
    """Seconds since the last result; 0 when idle."""
    stages: list[StageStats] = []
    """One for each pipeline stage."""
    microbatch_prefill: TokenHistogram = msgspec.field(default_factory=TokenHistogram)
    microbatch_decode: TokenHistogram = msgspec.field(default_factory=TokenHistogram)
    iterations: TokenHistogram = msgspec.field(default_factory=TokenHistogram)
    """Prompt tokens computed and tokens generated in each step."""


class RequestOutputs(Message):
    """The outputs of one client's requests; without outputs it is the heartbeat, once a second."""

    outputs: list[RequestOutput]
    stats: EngineStats


class CachedPages(Message):
    """Changes of the prefix cache, for gateways of other machines. Digests are those of `gllm.engine.kv_pages`."""

    added: list[bytes]
    removed: list[bytes]
    whole: bool = False
    """Whether `added` is all that the cache has."""


class Hello(Message, kw_only=True):
    """The engine is ready to serve."""

    epoch: int
    max_model_len: int
    """Maximum of prompt + output, in tokens, for the model and the KV pool."""
    num_pages: int
    page_size: int
    max_num_seqs: int
    version: str = ""
    """gLLM's version."""
    model: str = ""
    """Digest of the model's configuration, if gateways of other machines may connect."""
    leaving: bool = False
    """Whether the group will end, so that it should get no new requests; sent again when that changes."""


# --- engine -> worker ----------------------------------------------------------------------------


class Configure(Message):
    """Allocate the KV pool and warm up. The answer is `Ready`."""

    num_pages: int
    max_model_len: int


class PrepareGrammar(Message):
    """Compile a grammar, outside the steps. Sent to the rank that samples; the answer is `GrammarReady`."""

    number: int
    grammar: str
    http_id: str = ""
    """X-Request-Id of the first request with it, for log lines."""


class DropGrammar(Message):
    """Delete a grammar: no sequence needs it."""

    number: int


class NewSequence(msgspec.Struct, array_like=True):
    """Registers a sequence in a slot. Sent once; later steps name only the slot."""

    slot: int
    token_ids: list[int]
    """The prompt and, after a preemption or restart, the generated tokens."""
    num_prompt_tokens: int
    num_computed_tokens: int
    """The number of leading tokens whose KV is in `pages` already (prefix-cache hits)."""
    pages: list[int]
    sampling: SamplingParams
    """`seed` is set; `stop_token_ids` includes EOS unless `ignore_eos`; `grammar` is None."""
    rope_start: int = 0
    """The row of the rope table for its position 0; not 0 if long prompts have their own frequencies."""
    grammar: int = 0
    """The number of its grammar, which is compiled; 0 for none."""


class SchedulerOutput(Message, kw_only=True):
    """One micro-batch, as a delta to what the workers know.

    A worker frees the slots `freed`, registers `new`, appends `pages`, and then runs the rows.
    Rows are parallel lists: first decode rows (one token), then prefill chunks. The input token of a decode row is the
    last one sampled for the slot. It goes from the last stage to the first without the engine, which may not know it.
    """

    epoch: int
    step: int
    slots: list[int]
    num_tokens: list[int]
    """New tokens to compute for each row."""
    samples: list[bool]
    """Whether the row ends with the last known token of its sequence, so that a token is sampled."""
    pages: list[tuple[int, list[int]]]
    """(slot, pages appended to its block table)."""
    new: list[NewSequence]
    freed: list[int]


class Stop(Message):
    """Exit with status 0."""


# --- worker -> engine ----------------------------------------------------------------------------


class Capacity(Message):
    """The model is loaded; `num_pages` KV pages fit the memory budget."""

    rank: int
    num_pages: int


class Ready(Message):
    rank: int
    step_sizes: list[int] = msgspec.field(default_factory=list)
    """Numbers of tokens, ascending, to which steps with prompts are padded; empty: they are not padded."""
    efficient_sizes: list[int] = msgspec.field(default_factory=list)
    """Those of them that compute the most tokens per second."""


class GrammarReady(Message):
    """A grammar is compiled, or failed to compile."""

    number: int
    error: str = ""
    """Empty if it is compiled."""


class StepResult(Message, kw_only=True):
    epoch: int
    step: int
    token_ids: list[int]
    """One for each row with `samples` set, in row order; -1 where the row failed."""
    elapsed: float
    """Seconds of compute on the last stage."""
    logprobs: list[TokenLogprob | None] | None = None
    """Parallel to `token_ids`; None if no row requests them."""
    prompt_logprobs: list[tuple[int, list[TokenLogprob]]] = msgspec.field(default_factory=list)
    """(row, logprobs of the prompt tokens that this chunk predicts)."""
    errors: list[tuple[int, str]] = msgspec.field(default_factory=list)
    """(row, message): requests that fail, for example because of their grammar. The other rows are not affected."""


class StageReport(Message, kw_only=True):
    """The time of a step on one stage, from its first rank. It may arrive before or after the step's result."""

    epoch: int
    step: int
    stage: int
    started: float
    """time.time() when the stage had its inputs and began to compute."""
    elapsed: float
    """Seconds of compute."""


class WorkerFailed(Message):
    """The worker failed; it exits after this message."""

    rank: int
    reason: str


# --- process <-> supervisor ----------------------------------------------------------------------


class ProcessStatus(Message, kw_only=True):
    """The state of a process."""

    role: str
    """gateway, engine or worker-RANK."""
    epoch: int
    pid: int
    state: str
    """starting, loading, ready, draining, failed, or hung (the workers do not answer)."""
    detail: str = ""
    progress: float = 0.0
    """0 to 1 while loading."""


class EngineUp(Message):
    """The engine of this epoch starts or has started: connect to its socket and wait for `Hello`."""

    epoch: int


class EngineDown(Message):
    """The engine or a worker exited."""

    epoch: int
    reason: str
    recovery_seconds: float = 0.0
    """Time in which the next engine starts and gets the live requests. 0: no engine starts, and they fail."""


class Loading(Message):
    """Share of the weights that the workers of the current epoch have loaded."""

    progress: float
    """0 to 1, for all ranks together."""


class Drain(Message):
    """Finish the requests that have arrived and that still arrive, within `timeout` seconds, then exit."""

    timeout: float


GatewayToEngine = Connect | Submit | Abort | Leave | Watch
EngineToGateway = Hello | RequestOutputs | CachedPages | PipelineEvents
EngineToWorker = Configure | PrepareGrammar | DropGrammar | SchedulerOutput | Stop
WorkerToEngine = Capacity | Ready | GrammarReady | StepResult | StageReport | WorkerFailed
SupervisorToProcess = EngineUp | EngineDown | Loading | Drain
