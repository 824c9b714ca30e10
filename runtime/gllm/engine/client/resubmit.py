"""A live request as its client knows it: enough to give it to another engine when the one that had it is gone."""

from __future__ import annotations

import random
import time

import msgspec

from gllm.sampling_params import SamplingParams
from gllm.wire.messages import RequestOutput, Submit

MAX_LOSSES = 3
"""Engines in a row that may go down with a request without a token of it; with the next one it fails."""
SUSPECT_LOSSES = 2
"""From here on a request may be what ends the engines: it is tried apart from others like it."""


def for_engine(sampling: SamplingParams) -> SamplingParams:
    """Without what acts on text, which may be large, and with a seed where none was asked for.

    The client draws it, so that a later engine goes on with the same draws.
    """
    seed = sampling.seed if sampling.seed is not None else random.getrandbits(64) - 2**63
    return msgspec.structs.replace(sampling, seed=seed, stop=(), stop_regex=(), bad_words=())


class RequestRecord:
    """What was asked and what came back. An engine that gets `to_submit()` goes on as the last one would have."""

    __slots__ = ("_arrived", "_cached", "_described", "_sent_at", "_submit", "generated", "losses", "sent")

    def __init__(self, submit: Submit) -> None:
        """`submit` is of a new request, with its seed set."""
        self._submit = submit
        self._arrived = self._sent_at = time.monotonic()
        self._described = False
        self._cached = 0
        self.generated: list[int] = []
        self.losses = 0
        """Engines that went down with it since its last token."""
        self.sent = False
        """The present engine has it."""

    @property
    def exhausted(self) -> bool:
        return self.losses > MAX_LOSSES

    @property
    def suspect(self) -> bool:
        return self.losses >= SUSPECT_LOSSES

    def to_submit(self) -> Submit:
        """For an engine that does not know it."""
        self.sent = True
        self._sent_at = time.monotonic()
        if not self.generated:
            return self._submit
        return msgspec.structs.replace(
            self._submit,
            token_ids=self._submit.token_ids + self.generated,
            num_generated=len(self.generated),
        )

    def on_engine_lost(self) -> None:
        """The engine that may have had it is gone."""
        if self.sent:
            self.sent = False
            self.losses += 1

    def receive(self, output: RequestOutput) -> None:
        """Take note of an output, and make it what an undisturbed engine would have said."""
        if output.token_ids:
            self.generated += output.token_ids
            self.losses = 0
        if not self._described:
            self._described = True
            self._cached = output.num_cached_tokens
            output.queue_time += self._sent_at - self._arrived
        else:
            # Another engine finds other pages in its cache; what counts is how the client's prompt was first computed.
            output.num_cached_tokens = self._cached
