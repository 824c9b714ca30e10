"""One request inside the engine: its tokens, its pages, and how far it has been scheduled."""

from __future__ import annotations

import sys
from enum import IntEnum

import msgspec

from gllm.sampling_params import SamplingParams
from gllm.wire.messages import NewSequence, TokenLogprob

NEVER = sys.maxsize


class SequenceStatus(IntEnum):
    WAITING = 0
    """In the queue: new, or preempted (its last tokens may still be on their way back)."""
    PREFILLING = 1
    """Has a slot; part of its known tokens is not scheduled yet."""
    DECODING = 2
    """Has a slot; all known tokens are scheduled and more may be sampled."""
    DRAINING = 3
    """Has a slot; everything it may ever compute is scheduled, the results are awaited."""
    FINISHED = 4
    PREPARING = 5
    """Not in the queue yet: its grammar is being compiled."""


class Sequence:
    """Mutable state of one request. Compared and hashed by identity.

    Counting: `num_scheduled` tokens have been sent for computation, `tokens` are known here. While it decodes,
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
        "max_length",
        "min_length",
        "num_cached",
        "num_preemptions",
        "num_prompt",
        "num_scheduled",
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
    ) -> None:
        """`sampling` is in its wire form: seed set, stop_token_ids complete with EOS (see gllm.engine.gateways).

        `num_generated` of the `token_ids`, at the end, are no prompt: an earlier engine has made them.
        `root` starts the chain of page digests (gllm.engine.kv_pages.root_digest).
        """
        self.request_id = request_id
        self.client = client
        self.sampling = sampling
        self.priority = priority
        self.arrival_time = arrival_time
        self.rank = (priority, 0)
        """Order of service; the scheduler puts the arrival number in when it admits the request to its queue."""

        self.tokens = list(token_ids)
        """Prompt and generated tokens known here."""
        self.num_prompt = len(token_ids) - num_generated
        self.stop_ids = frozenset(sampling.stop_token_ids)
        self.min_length = self.num_prompt + sampling.min_tokens
        room = max_model_len - self.num_prompt
        self.max_length = self.num_prompt + (room if sampling.max_tokens is None else min(sampling.max_tokens, room))
        """Length at which it is finished."""

        self.grammar = 0
        """Number of its grammar, see gllm.engine.grammars; 0 for none."""
        self.status = SequenceStatus.WAITING
        self.slot = -1
        self.pages: list[int] = []
        self.capacity = 0
        """Tokens that `pages` hold."""
        self.num_scheduled = 0
        self.prefill_end = 0
        """Known tokens when it got its slot; they are prefilled in chunks."""
        self.last_step = 0
        """The last step with a row of it."""

        self.rope_start = 0
        """Row of the rope table that is its position 0."""
        self.root = root
        self.digests: list[bytes] = []
        """Of the leading full pages of `tokens`."""
        self.hit_pages = 0
        """Estimate of the prefix-cache hits while it waits."""
        self.queued_tokens = 0
        """What it adds to the waiting tokens while it is in the queue."""
        self.register_at = NEVER
        """Token count at which its next page is full and goes to the prefix cache."""

        self.num_cached = -1
        """Prompt tokens found in the prefix cache when first scheduled; -1 before."""
        self.first_scheduled = 0.0
        self.num_preemptions = 0
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self.prompt_scored = sampling.prompt_logprobs is None or num_generated > 0
        """Prompt logprobs are out (they go with the first token), or were never asked for."""

    @property
    def scoring_only(self) -> bool:
        """Nothing is to be generated: only the prompt is computed."""
        return self.max_length == self.num_prompt

    @property
    def num_uncomputed(self) -> int:
        """Known tokens of an unfinished prefill that are not scheduled yet."""
        return self.prefill_end - self.num_scheduled

    def most_hits(self, page_size: int) -> int:
        """Most pages it may take from the prefix cache.

        The last token is always computed, to sample from it; prompt logprobs need every token computed.
        """
        return min((len(self.tokens) - 1) // page_size, len(self.digests)) if self.prompt_scored else 0

    def registration(self, num_computed: int, pages: list[int]) -> NewSequence:
        """How a worker learns of this sequence."""
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
