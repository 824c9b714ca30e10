"""Synthetic workloads with the length statistics of real traffic. Pure: a seed gives the same requests anywhere."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import msgspec

MIN_LENGTH = 4
"""Shortest prompt and shortest output, in tokens."""
DEFAULT_TOKEN_RANGE = (1000, 32000)
"""Range of random token ids: lower ids are special tokens in many vocabularies."""


class Lengths(msgspec.Struct, frozen=True):
    """A log-normal distribution of token counts, given by its mean (not its median) and the sigma of its logarithm."""

    mean: float
    sigma: float
    most: int

    def sample(self, rng: random.Random, scale: float = 1.0) -> int:
        """Draw one length, clipped to [MIN_LENGTH, most]; mu follows from E[lognormal(mu, s)] = exp(mu + s^2/2)."""
        mu = math.log(self.mean * scale) - self.sigma**2 / 2
        return min(max(round(rng.lognormvariate(mu, self.sigma)), MIN_LENGTH), self.most)


class Workload(msgspec.Struct, frozen=True):
    """One kind of traffic: the lengths of prompts and of outputs, in tokens."""

    name: str
    about: str
    prompt: Lengths
    output: Lengths
    num_prompts: int
    """The number of requests behind the published figures."""


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload(
            "sharegpt", "chat: short prompts, answers as long", Lengths(220, 1.1, 1024), Lengths(200, 0.9, 1024), 1000
        ),
        Workload(
            "azure", "Azure 2023 conversation: long prompts", Lengths(1155, 1.0, 7000), Lengths(211, 0.7, 1000), 400
        ),
        Workload("decode", "mostly decode", Lengths(128, 0.3, 512), Lengths(512, 0.3, 1024), 256),
        Workload("prefill", "mostly prefill", Lengths(2048, 0.3, 4096), Lengths(16, 0.3, 32), 200),
        Workload("cpu", "small enough for two cores", Lengths(120, 0.6, 512), Lengths(60, 0.5, 256), 128),
    )
}


class BenchRequest(msgspec.Struct, frozen=True):
    """One request of a workload."""

    index: int
    token_ids: list[int]
    output_len: int
    arrival: float
    """Seconds after the start of the run."""


def arrival_times(count: int, rate: float, rng: random.Random) -> list[float]:
    """Return Poisson arrivals at `rate` requests per second; all at 0 if the rate is infinite. Raises ValueError."""
    if math.isinf(rate):
        return [0.0] * count
    if rate <= 0:
        raise ValueError(f"request rate must be above 0 (or inf), not {rate}")
    now, times = 0.0, []
    for _ in range(count):
        times.append(now)
        now += rng.expovariate(rate)
    return times


def make_requests(
    workload: Workload,
    count: int,
    *,
    seed: int = 0,
    rate: float = math.inf,
    token_range: Sequence[int] = DEFAULT_TOKEN_RANGE,
    max_model_len: int | None = None,
    input_len: int | None = None,
    output_len: int | None = None,
) -> list[BenchRequest]:
    """Draw `count` requests of a workload.

    Args:
        token_range: [low, high) of the random prompt token ids.
        max_model_len: outputs are cut to half of it, and prompts to the rest.
        input_len, output_len: fixed lengths instead of random ones.
    """
    low, high = token_range
    if not 0 <= low < high:
        raise ValueError(f"token range must be low < high with low >= 0, not {low}..{high}")
    if count < 1:
        raise ValueError(f"number of prompts must be at least 1, not {count}")
    if max_model_len is not None and max_model_len < 2 * MIN_LENGTH:
        raise ValueError(f"max_model_len must be at least {2 * MIN_LENGTH} for a benchmark, not {max_model_len}")
    lengths_rng, tokens_rng, arrivals_rng = (
        random.Random(f"{seed}/{part}") for part in ("lengths", "tokens", "arrivals")
    )
    arrivals = arrival_times(count, rate, arrivals_rng)
    requests = []
    for index in range(count):
        prompt_len = workload.prompt.sample(lengths_rng)
        answer_len = workload.output.sample(lengths_rng)
        prompt_len, answer_len = input_len or prompt_len, output_len or answer_len
        if max_model_len is not None:
            answer_len = min(answer_len, max_model_len // 2)
            prompt_len = min(prompt_len, max_model_len - answer_len)
        token_ids = [tokens_rng.randrange(low, high) for _ in range(prompt_len)]
        requests.append(BenchRequest(index, token_ids, answer_len, arrivals[index]))
    return requests


def token_range_for(vocab_size: int | None) -> tuple[int, int]:
    """Return the default range of ids, clipped to a vocabulary; all ids of a tiny vocabulary."""
    low, high = DEFAULT_TOKEN_RANGE
    if vocab_size is None or vocab_size >= high:
        return low, high
    return (low, vocab_size) if vocab_size > 2 * low else (0, vocab_size)
