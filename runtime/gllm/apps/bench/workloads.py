"""Synthetic workloads with the length statistics of real traffic. Pure: a seed gives the same requests anywhere."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import msgspec

from gllm.apps.bench.arrivals import arrival_times, arrivals_rng
from gllm.apps.bench.prompt_writer import DEFAULT_TOKEN_RANGE, MIN_LENGTH, Writer, clip, token_writer
from gllm.apps.bench.requests import BenchRequest, as_request


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
    write: Writer | None = None,
    arrivals: Sequence[float] | None = None,
) -> list[BenchRequest]:
    """Draw `count` requests of a workload.

    Args:
        token_range: [low, high) of the random prompt token ids.
        max_model_len: outputs are cut to half of it, and prompts to the rest.
        input_len, output_len: fixed lengths instead of random ones.
        write: makes the prompts instead of random token ids.
        arrivals: when each request is sent, instead of Poisson arrivals at `rate`.
    """
    if count < 1:
        raise ValueError(f"number of prompts must be at least 1, not {count}")
    write = write or token_writer(seed, token_range)
    lengths_rng = random.Random(f"{seed}/lengths")
    if arrivals is None:
        arrivals = arrival_times(count, rate, arrivals_rng(seed))
    requests = []
    for index in range(count):
        prompt_len = workload.prompt.sample(lengths_rng)
        answer_len = workload.output.sample(lengths_rng)
        prompt_len, answer_len = clip(input_len or prompt_len, output_len or answer_len, max_model_len)
        requests.append(as_request(index, write(prompt_len), prompt_len, answer_len, arrivals[index]))
    return requests
