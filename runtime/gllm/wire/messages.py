"""Every message that crosses a process boundary: a closed set of msgspec structs in MessagePack.

Those between the supervisors of two nodes are in `gllm.wire.node_messages`.

Never pickle: decoding is typed, unknown tags and fields are refused, sizes are bounded by the transport.

    gateway  -> engine      Connect | Submit | Abort
    engine   -> gateway     Hello | RequestOutputs
    engine   -> worker      Configure | PrepareGrammar | DropGrammar | SchedulerOutput | Stop
    worker   -> engine      Capacity | Ready | GrammarReady | StepResult | StageReport | WorkerFailed
    process  -> supervisor  ProcessStatus
    supervisor -> process   EngineUp | EngineDown | Drain
"""

from __future__ import annotations

import msgspec

from gllm.sampling_params import SamplingParams


class Message(msgspec.Struct, tag=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages; fields travel as an array, tagged with the class name."""


# --- gateway -> engine ---------------------------------------------------------------------------


class Connect(Message):
    """A gateway (or an offline `LLM`) asks for `Hello` and becomes a receiver of its requests' outputs."""


class Submit(Message, kw_only=True):
    request_id: str
    """Made by the server, unique for the engine's life."""
    token_ids: list[int]
    """The prompt and, in a recovery, what an earlier engine generated after it."""
    sampling: SamplingParams
    priority: int = 0
    """Smaller first (vLLM's convention)."""
    cache_salt: str = ""
    num_generated: int = 0
    """How many of `token_ids`, at the end, are no prompt: outputs begin after them, and limits count them."""


class Abort(Message):
    request_ids: list[str]


# --- engine -> gateway ---------------------------------------------------------------------------


class TokenLogprob(msgspec.Struct, array_like=True, kw_only=True):
    """Log-probability of one token and of its `top` alternatives, from the unmodified logits."""

    token_id: int
    logprob: float
    rank: int
    """1 is the most likely token."""
    top: list[tuple[int, float]]
    """(token id, logprob), most likely first, or in the order of `SamplingParams.logprob_token_ids`."""


class RequestOutput(msgspec.Struct, array_like=True, kw_only=True):
    """What one step added to one request. The last one of a request has `finish_reason`."""

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
    """One entry for each prompt token, None for the first; sent once, when the prompt is done."""
    num_cached_tokens: int = 0
    """Prompt tokens that came from the prefix cache."""
    queue_time: float = 0.0
    """Seconds from arrival to first being scheduled; sent with the first token."""
    prefill_time: float = 0.0
    """Seconds from first being scheduled to the first token; sent with it."""
    num_preemptions: int = 0
    invalid_request: bool = False
    """The error is in what the client asked for, as a grammar that cannot be followed: its text is for the client."""


MICROBATCH_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Upper bounds, inclusive, of the buckets that micro-batches are counted in."""
ITERATION_EDGES = (1, *MICROBATCH_EDGES[1:])
"""The same for steps; vLLM's edges of `iteration_tokens_total`."""


class TokenHistogram(msgspec.Struct, array_like=True):
    """Tokens of micro-batches or steps of one kind, counted from the engine's start."""

    counts: list[int] = []
    """How many there are in each bucket, not cumulated; the last is what lies beyond the edges."""
    total: int = 0
    """Tokens in all of them."""


class StageStats(msgspec.Struct, array_like=True, kw_only=True):
    """What one stage did lately; `gllm.engine.meter` defines the shares."""

    busy: float = 0.0
    """Share of the time that it computed, 0 to 1."""
    bubble: float = 0.0
    """Share of the time with a micro-batch in flight that it did not compute, 0 to 1."""
    step_time: float = 0.0
    """Seconds of its last step."""
    prediction_error: float = 0.0
    """Mean of |predicted - measured| / measured step time."""


class EngineStats(msgspec.Struct, array_like=True, kw_only=True):
    """A snapshot for metrics and health. Counters count from the engine's start."""

    step: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_deferred: int = 0
    """Of `num_waiting`, those that wait for their grammar."""
    num_waiting_tokens: int = 0
    """Prompt tokens not yet computed."""
    kv_usage: float = 0.0
    """Share of KV pages held by live requests, 0 to 1."""
    num_preemptions: int = 0
    prefix_cache_queries: int = 0
    """Prompt tokens looked up."""
    prefix_cache_hits: int = 0
    """Prompt tokens found."""
    step_time: float = 0.0
    """Seconds the worker spent on the last step."""
    num_inflight: int = 0
    """Micro-batches in flight."""
    seconds_since_progress: float = 0.0
    """0 when idle; else the time since a step last came back."""
    stages: list[StageStats] = []
    """One for each pipeline stage."""
    microbatch_prefill: TokenHistogram = msgspec.field(default_factory=TokenHistogram)
    microbatch_decode: TokenHistogram = msgspec.field(default_factory=TokenHistogram)
    iterations: TokenHistogram = msgspec.field(default_factory=TokenHistogram)
    """Prompt tokens computed and tokens generated, of each step that came back."""


class RequestOutputs(Message):
    """Results of a step; with no outputs it is the heartbeat (once a second)."""

    outputs: list[RequestOutput]
    stats: EngineStats


class Hello(Message, kw_only=True):
    """The engine is ready to serve."""

    epoch: int
    max_model_len: int
    """Longest prompt + output, in tokens, that fits the model and the KV pool."""
    num_pages: int
    page_size: int
    max_num_seqs: int


# --- engine -> worker ----------------------------------------------------------------------------


class Configure(Message):
    """Allocate the KV pool and warm up; answered by `Ready`."""

    num_pages: int
    max_model_len: int


class PrepareGrammar(Message):
    """Compile a grammar, outside the steps; answered by `GrammarReady`. Only for the rank that samples."""

    number: int
    grammar: str


class DropGrammar(Message):
    """No sequence needs it any more, and none will."""

    number: int


class NewSequence(msgspec.Struct, array_like=True):
    """Registers a sequence in a slot. Sent once; afterwards plans name only the slot."""

    slot: int
    token_ids: list[int]
    """Prompt and, after a preemption or recovery, what was generated so far."""
    num_prompt_tokens: int
    num_computed_tokens: int
    """Leading tokens whose KV is already in `pages` (prefix-cache hits)."""
    pages: list[int]
    sampling: SamplingParams
    """`seed` is always set; `stop_token_ids` includes EOS unless `ignore_eos`. `grammar` is left out."""
    rope_start: int = 0
    """Row of the rope table that is its position 0: not 0 where long prompts have frequencies of their own."""
    grammar: int = 0
    """Number of the grammar, which is ready; 0 for none."""


class SchedulerOutput(Message, kw_only=True):
    """One micro-batch, as a delta to what the worker already knows.

    Order of effects: free `freed` slots, register `new`, append `pages`, run the rows.
    Rows are parallel lists, decode rows (one token) first, then prefill chunks. A decode row's input
    token may still be on the device: it is the last one sampled for the slot.
    """

    epoch: int
    step: int
    slots: list[int]
    num_tokens: list[int]
    """New tokens to compute for each row."""
    samples: list[bool]
    """Whether the row's last token reaches the end of what is known, so that a token is sampled."""
    pages: list[tuple[int, list[int]]]
    """(slot, pages appended to its block table)."""
    new: list[NewSequence]
    freed: list[int]
    tokens: list[int] = []
    """With pp > 1: the input token of each decode row, which are the first rows. With pp = 1 they are still on the
    device, or known to the worker, and this is empty."""


class Stop(Message):
    """Leave the loop and exit with status 0."""


# --- worker -> engine ----------------------------------------------------------------------------


class Capacity(Message):
    """The model is loaded; this many KV pages fit the memory budget."""

    rank: int
    num_pages: int


class Ready(Message):
    rank: int


class GrammarReady(Message):
    """A grammar is compiled, or failed to compile."""

    number: int
    error: str = ""
    """Empty: it may be used."""


class StepResult(Message, kw_only=True):
    epoch: int
    step: int
    token_ids: list[int]
    """One for each row with `samples` set, in row order; -1 where the row failed."""
    elapsed: float
    """Seconds of compute on the last stage."""
    logprobs: list[TokenLogprob | None] | None = None
    """Parallel to `token_ids`; None if no row asked."""
    prompt_logprobs: list[tuple[int, list[TokenLogprob]]] = []
    """(row, logprobs of the prompt tokens that this chunk predicts)."""
    errors: list[tuple[int, str]] = []
    """(row, message): what the row asks for cannot be done, as with a grammar. The request fails, the batch goes on."""


class StageReport(Message, kw_only=True):
    """What a step cost one stage; from the first rank of each stage, in no order with the step's result."""

    epoch: int
    step: int
    stage: int
    started: float
    """time.time() when the stage had its inputs and began to compute."""
    elapsed: float
    """Seconds of compute."""


class WorkerFailed(Message):
    """The worker cannot go on; it exits after sending this."""

    rank: int
    reason: str


# --- process <-> supervisor ----------------------------------------------------------------------


class ProcessStatus(Message, kw_only=True):
    """A child tells where it stands."""

    role: str
    """gateway, engine or worker-RANK."""
    epoch: int
    pid: int
    state: str
    """starting, loading, ready, draining, failed, or hung: failed because the workers do not answer."""
    detail: str = ""
    progress: float = 0.0
    """0 to 1 while loading."""


class EngineUp(Message):
    """An engine of this epoch is (being) started: connect to its socket and wait for `Hello`."""

    epoch: int


class EngineDown(Message):
    """The engine or a worker died."""

    epoch: int
    reason: str
    recovery_seconds: float = 0.0
    """Within these another engine is to be up, which gets the live requests. 0: there will be none, they fail."""


class Loading(Message):
    """How far the workers of the current epoch are with their weights."""

    progress: float
    """0 to 1, of all ranks together."""


class Drain(Message):
    """Refuse new requests, finish the live ones within `timeout` seconds, then exit."""

    timeout: float


GatewayToEngine = Connect | Submit | Abort
EngineToGateway = Hello | RequestOutputs
EngineToWorker = Configure | PrepareGrammar | DropGrammar | SchedulerOutput | Stop
WorkerToEngine = Capacity | Ready | GrammarReady | StepResult | StageReport | WorkerFailed
SupervisorToProcess = EngineUp | EngineDown | Loading | Drain
