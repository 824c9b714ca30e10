"""The client's record of a live request: enough to resubmit it to another engine."""

from __future__ import annotations

import random
import time

import msgspec

from gllm.engine.kv_pages import prompt_root
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import RequestOutput, Submit
from gllm.wire.origin import Origin

MAX_LOSSES = 3
"""Engines in a row that may fail while they have a request and before it gets a token; one more fails the request."""
SUSPECT_LOSSES = 2
"""From this number of losses on, a request may be their cause: such requests are resubmitted one after another."""


def for_engine(sampling: SamplingParams) -> SamplingParams:
    """Return the parameters with a seed, and without the parameters that act on text, which may be large.

    The client draws the seed, so that a later engine continues with the same draws.
    """
    seed = sampling.seed if sampling.seed is not None else random.getrandbits(64) - 2**63
    return msgspec.structs.replace(sampling, seed=seed, stop=(), stop_regex=(), bad_words=())


class RequestRecord:
    """A request and its tokens so far. An engine that gets `to_submit()` continues as the last one would have."""

    __slots__ = (
        "_arrived",
        "_cached",
        "_described",
        "_sent_at",
        "_submissions",
        "_submit",
        "generated",
        "losses",
        "sent",
        "waits_since",
    )

    def __init__(self, submit: Submit) -> None:
        """submit: the message of a new request, with a seed."""
        self._submit = submit
        self._arrived = self._sent_at = time.monotonic()
        self._submissions = 0
        self._described = False
        self._cached = 0
        self.generated: list[int] = []
        self.losses = 0
        """Engines that failed with it since its last token."""
        self.sent = False
        """Whether the current engine has it."""
        self.waits_since = self._arrived
        """time.monotonic() since which it waits for an engine, while none has it."""

    @property
    def origin(self) -> Origin:
        return self._submit.origin

    @property
    def token_ids(self) -> list[int]:
        """The prompt and the tokens so far."""
        return self._submit.token_ids + self.generated

    def root(self, long_rope_from: int | None) -> bytes:
        """Return the root of the digests of its KV pages."""
        return prompt_root(self._submit.cache_salt, len(self._submit.token_ids), long_rope_from)

    @property
    def exhausted(self) -> bool:
        return self.losses > MAX_LOSSES

    @property
    def suspect(self) -> bool:
        return self.losses >= SUSPECT_LOSSES

    def to_submit(self) -> Submit:
        """Return the message that submits it to an engine.

        Each has its own id: an engine that a connection has lost may still have the request of the last message.
        """
        self.sent = True
        self._sent_at = time.monotonic()
        self._submissions += 1
        if self._submissions == 1:
            return self._submit
        return msgspec.structs.replace(
            self._submit,
            request_id=f"{self._submit.request_id}~{self._submissions}",
            token_ids=self._submit.token_ids + self.generated,
            num_generated=len(self.generated),
        )

    def on_engine_lost(self) -> None:
        """Record that the engine ended."""
        if self.sent:
            self.sent = False
            self.waits_since = time.monotonic()
            self.losses += 1

    def receive(self, output: RequestOutput) -> None:
        """Record an output, and change its times and counts as if no engine had failed."""
        if output.token_ids:
            self.generated += output.token_ids
            self.losses = 0
        if not self._described:
            self._described = True
            self._cached = output.num_cached_tokens
            output.queue_time += self._sent_at - self._arrived
        else:
            # Another engine has other hits in its cache; the client always gets the hits of the first engine.
            output.num_cached_tokens = self._cached
