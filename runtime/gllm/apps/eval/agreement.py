"""How close a served model is to its reference: greedy choices and perplexity. Pure: figures in, figures out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from gllm.apps.eval.accuracy import Accuracy, accuracy


@dataclass(frozen=True)
class Compared:
    """A served greedy answer beside the reference, which reads the same tokens.

    gaps: for each token the logit of the reference's choice minus the token's, both in the reference; 0: the same.
    """

    gaps: list[float]

    @property
    def first_divergence(self) -> int | None:
        """The index of the first token that the reference would not have chosen."""
        return next((index for index, gap in enumerate(self.gaps) if gap > 0), None)


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """What `gllm eval agreement` finds."""

    tokens: Accuracy
    """Tokens that are the reference's choice too, with prompts as the questions."""
    equal_answers: int
    answers: int
    first_divergences: list[int | None]
    """For each answer."""
    largest_gap: float
    """The largest gap of a token: how sure the reference was of another one, in nats."""
    perplexity: float
    reference_perplexity: float
    text_tokens: int
    mean_logprob_error: float
    """The mean of |served - reference| over the tokens of the text."""
    largest_logprob_error: float

    @property
    def perplexity_increase(self) -> float:
        """0.01 is one percent more than the reference's."""
        return self.perplexity / self.reference_perplexity - 1

    @property
    def median_divergence(self) -> float | None:
        """The median index of the first divergence, of the answers that diverge."""
        found = [index for index in self.first_divergences if index is not None]
        return statistics.median(found) if found else None


def perplexity(logprobs: Sequence[float]) -> float:
    """exp of the mean negative log-probability."""
    return math.exp(-statistics.fmean(logprobs))


def windows(tokens: Sequence[int], size: int) -> list[list[int]]:
    """Cut a text into windows of `size` tokens, each read without the ones before. One token alone is left out."""
    parts = [list(tokens[start : start + size]) for start in range(0, len(tokens), size)]
    return [part for part in parts if len(part) > 1]


def measure(compared: Sequence[Compared], served: Sequence[float], reference: Sequence[float]) -> Agreement:
    """Return the figures of all answers, and of the log-probabilities of a text.

    Raises ValueError if there is no token to compare.
    """
    full = [one for one in compared if one.gaps]
    if not full or not served:
        raise ValueError("there is no token to compare: prompts and text must not be empty")
    errors = [abs(one - other) for one, other in zip(served, reference, strict=True)]
    firsts = [one.first_divergence for one in full]
    return Agreement(
        tokens=accuracy([[gap <= 0 for gap in one.gaps] for one in full]),
        equal_answers=firsts.count(None),
        answers=len(full),
        first_divergences=firsts,
        largest_gap=max(gap for one in full for gap in one.gaps),
        perplexity=perplexity(served),
        reference_perplexity=perplexity(reference),
        text_tokens=len(served),
        mean_logprob_error=statistics.fmean(errors),
        largest_logprob_error=max(errors),
    )
