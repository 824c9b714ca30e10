"""The share of a GPU's roofline that a steady window reaches, from what the client has seen and the model's shape.

**Computation**: 2 operations for each weight of a matrix product, and 4 for each query, key and dimension of a head:

    FLOP = 2 * layers' weights * computed tokens + 2 * hidden * vocabulary * output tokens
         + 4 * layers * heads * head_dim * (sum over prompts of P (P + 1) / 2 + sum over decoded tokens of context)

The computed tokens are the prompts and all outputs but each request's first, which its prompt computes. Of a mixture
of experts the weights are those that one token uses. (The usual count of model FLOPs, PaLM, arXiv 2204.02311,
appendix B; here attention is causal, and the embedding is no product.)

**Memory traffic**, at least: a pass over the weights yields at most one token for each of the C requests in flight,
and a decoded token reads the keys and values of its context:

    bytes = 2 * (layers' weights + hidden * vocabulary) * output tokens / C
          + 4 * layers * kv_heads * head_dim * sum over decoded tokens of context

C tokens hit E (1 - (1 - k/E)^C) of E experts if routing chooses k of them evenly. A pipeline reads the weights once
for each micro-batch, so it needs more than this.

Each share is this work per second and GPU, divided by the data sheet's figure; the roofline's share is the larger one.
Prompts count as computed in full: a prefix cache or speculative decoding would make the shares too high.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.window import Window, tokens_in
from gllm.models.config import ModelConfig


class Gpu(msgspec.Struct, frozen=True):
    """A kind of GPU, by its data sheet."""

    name: str
    flops: float
    """Dense bf16 operations a second."""
    bandwidth: float
    """Bytes of memory a second."""


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("H100", 989.4e12, 3.35e12),  # SXM
        Gpu("H200", 989.4e12, 4.8e12),
        Gpu("A100", 312e12, 2.039e12),  # SXM, 80 GB
        Gpu("L20", 119.5e12, 0.864e12),
    )
}


class Gpus(msgspec.Struct, frozen=True):
    """The GPUs that serve one model."""

    kind: Gpu
    count: int
    model: ModelConfig


class Roofline(msgspec.Struct, frozen=True, kw_only=True):
    """What a window did on each GPU, on average."""

    gpu: str
    num_gpus: int
    flops: float
    """Operations a second and GPU."""
    compute_share: float
    """Of the GPU's peak; 0 to 1."""
    bandwidth: float
    """Bytes a second and GPU that had to be read at least."""
    bandwidth_share: float

    @property
    def share(self) -> float:
        """The share of the roofline: of the roof that is nearer."""
        return max(self.compute_share, self.bandwidth_share)


def parse_gpu(text: str) -> tuple[Gpu, int]:
    """Parse `H200` or `2xH200` to (kind, number). Raises ValueError."""
    match = re.fullmatch(r"(?:([1-9]\d*)x)?(\w+)", text, re.IGNORECASE)
    gpu = GPUS.get(match[2].upper()) if match else None
    if match is None or gpu is None:
        raise ValueError(f"--gpu must be a number and a kind, such as 2xH200 ({', '.join(GPUS)}), not {text!r}")
    return gpu, int(match[1] or 1)


class Work(msgspec.Struct, frozen=True):
    """What a window computed, in tokens."""

    prompt_tokens: int
    output_tokens: float
    decoded_tokens: float
    """Output tokens but each request's first."""
    pairs: float
    """Pairs of a query and a key in prompts."""
    decode_context: float
    """Sum over decoded tokens of the tokens that they attend to."""


def work_in(records: Iterable[RequestRecord], window: Window) -> Work:
    """Return the work that the window completed; failed requests count for nothing."""
    good = [record for record in records if record.ok]
    prompts, outputs = tokens_in(good, window)
    decoded = pairs = context = 0.0
    for record in good:
        length = record.prompt_tokens
        if window.holds(record.first_token):
            pairs += length * (length + 1) / 2
        before = 0.0
        for seconds, tokens in record.pieces:
            if window.holds(record.start + seconds):
                # Output token k attends to the prompt and the outputs before it: length + k - 1 tokens, for k from 2.
                first = max(before, 1.0)
                count = before + tokens - first
                decoded += count
                context += count * (length + first + (count - 1) / 2)
            before += tokens
    return Work(prompts, outputs, decoded, pairs, context)


def roofline(records: Iterable[RequestRecord], window: Window, concurrency: int, gpus: Gpus) -> Roofline:
    """Return the shares of the roofline by the formulas above."""
    work = work_in(records, window)
    gpu, model = gpus.kind, gpus.model
    head = model.hidden_size * model.vocab_size
    attention = model.num_layers * model.head_dim
    flops = (
        2 * _layers_weights(model, 1) * (work.prompt_tokens + work.decoded_tokens)
        + 2 * head * work.output_tokens
        + 4 * attention * model.num_heads * (work.pairs + work.decode_context)
    )
    read = (
        2 * (_layers_weights(model, concurrency) + head) * work.output_tokens / concurrency
        + 4 * attention * model.num_kv_heads * work.decode_context
    )
    each = window.duration * gpus.count
    return Roofline(
        gpu=gpu.name,
        num_gpus=gpus.count,
        flops=flops / each,
        compute_share=flops / each / gpu.flops,
        bandwidth=read / each,
        bandwidth_share=read / each / gpu.bandwidth,
    )


def _layers_weights(model: ModelConfig, tokens: int) -> float:
    """Return the number of weights of all layers that `tokens` tokens use together."""
    weights = 0.0
    for layer in range(model.num_layers):
        used = float(model.layer_weights(layer, active=True))
        if model.moe is not None and model.has_experts(layer):
            experts, chosen = model.moe.num_experts, model.moe.experts_per_token
            hit = experts * (1 - (1 - chosen / experts) ** tokens)
            idle = model.layer_weights(layer) - used
            used += idle * (hit - chosen) / max(experts - chosen, 1)
        weights += used
    return weights
