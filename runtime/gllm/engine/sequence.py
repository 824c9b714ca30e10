"""One request in the engine: its tokens, its pages, and how many tokens are scheduled."""

from __future__ import annotations

import sys
from enum import IntEnum

import msgspec

from gllm.sampling_params import SamplingParams
from gllm.wire.messages import NewSequence, TokenLogprob
from gllm.wire.origin import NO_ORIGIN, Origin

NEVER = sys.maxsize


class SequenceStatus(IntEnum):
    WAITING = 0
    """In the queue: new, or preempted (its last tokens may still be in flight)."""
    PREFILLING = 1
    """Has a slot; some of its known tokens are not scheduled yet."""
    DECODING = 2
    """Has a slot; all known tokens are scheduled and more may be sampled."""
    DRAINING = 3
    """Has a slot; all its tokens are scheduled, and some results are in flight."""
    FINISHED = 4
    PREPARING = 5
    """Not in the queue yet: its grammar is compiled first."""


class Sequence:
    """Mutable state of one request. Compared and hashed by identity.

    `num_scheduled` tokens have been sent to the workers; `tokens` are known here. While it decodes,
    `num_scheduled + 1 - len(tokens)` sampled tokens are still on the device.
    """

    __slots__ = (
        "arrival_time",
        "capacity",
        "client",
        "digests",
        "first_scheduled",
        "grammar",
        "hit_pages",
        "last_step",
        "late",
        "max_length",
        "min_length",
        "num_cached",
        "num_preemptions",
        "num_prompt",
        "num_scheduled",
        "origin",
        "pages",
        "prefill_end",
        "priority",
        "prompt_logprobs",
        "prompt_scored",
        "queued_tokens",
        "rank",
        "register_at",
        "request_id",
        "root",
        "rope_start",
        "sampling",
        "slot",
        "status",
        "stop_ids",
        "tokens",
    )

    def __init__(
        self,
        request_id: str,
        token_ids: list[int],
        sampling: SamplingParams,
        *,
        max_model_len: int,
        num_generated: int = 0,
        priority: int = 0,
        root: bytes = b"",
        client: bytes = b"",
        arrival_time: float = 0.0,
        origin: Origin = NO_ORIGIN,
    ) -> None:
        """`sampling` has a seed, and EOS among its stop_token_ids (see `gllm.engine.gateways.make_sequence`).

        The last `num_generated` of the `token_ids` are not prompt: an earlier engine has generated them.
        `root` starts the chain of page digests (`gllm.engine.kv_pages.root_digest`).
        """
        self.request_id = request_id
        self.client = client
        self.origin = origin
        self.sampling = sampling
        self.priority = priority
        self.arrival_time = arrival_time
        self.rank = (priority, 0)
        """Order of service; the scheduler sets the arrival number when it queues the request."""
        self.late = False
        """Whether it cannot meet the TTFT target any more; later requests then overtake it."""

        self.tokens = list(token_ids)
        """Prompt and generated tokens known here."""
        self.num_prompt = len(token_ids) - num_generated
        self.stop_ids = frozenset(sampling.stop_token_ids)
        self.min_length = self.num_prompt + sampling.min_tokens
        room = max_model_len - self.num_prompt
        self.max_length = self.num_prompt + (room if sampling.max_tokens is None else min(sampling.max_tokens, room))
        """Number of tokens at which it ends."""

        self.grammar = 0
        """Number of its grammar, see gllm.engine.grammars; 0 for none."""
        self.status = SequenceStatus.WAITING
        self.slot = -1
        self.pages: list[int] = []
        self.capacity = 0
        """The number of tokens for which `pages` have room."""
        self.num_scheduled = 0
        self.prefill_end = 0
        """The number of known tokens when it got its slot; they are prefilled in chunks."""
        self.last_step = 0
        """The last step in which it has a row."""

        self.rope_start = 0
        """The row of the rope table for its position 0."""
        self.root = root
        self.digests: list[bytes] = []
        """Digests of the leading full pages of `tokens`."""
        self.hit_pages = 0
        """Estimated prefix-cache hits, in pages, while it waits."""
        self.queued_tokens = 0
        """Tokens that it adds to the waiting tokens while it is in the queue."""
        self.register_at = NEVER
        """The number of tokens at which its next page is full and enters the prefix cache."""

        self.num_cached = -1
        """Prompt tokens found in the prefix cache when it is first scheduled; -1 before."""
        self.first_scheduled = 0.0
        self.num_preemptions = 0
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self.prompt_scored = sampling.prompt_logprobs is None or num_generated > 0
        """Whether prompt logprobs are sent (with the first token) or were not requested."""

    @property
    def scoring_only(self) -> bool:
        """Whether only the prompt is computed and no token is generated."""
        return self.max_length == self.num_prompt

    @property
    def num_uncomputed(self) -> int:
        """The number of known tokens of an unfinished prefill that are not scheduled yet."""
        return self.prefill_end - self.num_scheduled

    def most_hits(self, page_size: int) -> int:
        """Return the maximum number of pages that it may take from the prefix cache.

        The last token is always computed, to sample from it; prompt logprobs need all tokens computed.
        """
        return min((len(self.tokens) - 1) // page_size, len(self.digests)) if self.prompt_scored else 0

    def registration(self, num_computed: int, pages: list[int]) -> NewSequence:
        """Return the message that registers this sequence with the workers."""
        sampling = self.sampling
        if self.prompt_scored and sampling.prompt_logprobs is not None:
            sampling = msgspec.structs.replace(sampling, prompt_logprobs=None)
        if sampling.grammar is not None:
            sampling = msgspec.structs.replace(sampling, grammar=None)
        return NewSequence(
            slot=self.slot,
            token_ids=list(self.tokens),
            num_prompt_tokens=self.num_prompt,
            num_computed_tokens=num_computed,
            pages=pages,
            sampling=sampling,
            rope_start=self.rope_start,
            grammar=self.grammar,
        )
