"""Makes `SamplingParams` from a request's fields, the model's defaults and the room in the context."""

from __future__ import annotations

from typing import Any

from gllm.gateway.protocol.errors import answer_too_long, prompt_too_long
from gllm.gateway.protocol.generation_schema import GenerationRequest
from gllm.gateway.shared.served_model import ServedModel
from gllm.sampling_params import DEFAULTED_FIELDS, SamplingParams

_PLAIN_FIELDS = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "min_tokens",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
]


def sampling_for(
    request: GenerationRequest,
    model: ServedModel,
    prompt_tokens: int,
    max_model_len: int,
    grammar: str | None,
    bad_words: tuple[tuple[int, ...], ...],
) -> SamplingParams:
    """Return the parameters without stop strings and patterns. bad_words: the request's, as token sequences.

    Raises ApiError if the context is too short, and ParameterError if the fields contradict defaults or limits, such as
    min_tokens > max_tokens.
    """
    values: dict[str, Any] = {key: value for key, value in model.sampling_defaults.items() if key in DEFAULTED_FIELDS}
    for field in _PLAIN_FIELDS:
        value = getattr(request, field)
        if value is not None:
            values[field] = value
    if request.no_stop_trim:
        values["include_stop_str_in_output"] = True
    for field in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids"):
        token_ids = getattr(request, field) or ()
        model.check_token_ids(token_ids, field)
        values[field] = tuple(token_ids)
    if request.logit_bias:
        bias = {int(token): value for token, value in request.logit_bias.items()}
        model.check_token_ids(list(bias), "logit_bias")
        values["logit_bias"] = bias
    return SamplingParams(
        max_tokens=fit_max_tokens(request, prompt_tokens, max_model_len),
        logprobs=request.num_logprobs,
        prompt_logprobs=request.num_prompt_logprobs,
        grammar=grammar,
        bad_word_ids=bad_words,
        **values,
    )


def fit_max_tokens(request: GenerationRequest, prompt_tokens: int, max_model_len: int) -> int:
    """Return the limit of generated tokens.

    A request without a limit gets the default, or the room in the context if that is less.
    """
    requested, fill, param = request.output_limit, request.default_max_tokens, request.prompt_field
    room = max_model_len - prompt_tokens
    if request.ends_with_context:
        requested, fill = None, requested
    if requested is None:
        if room < 1:
            raise prompt_too_long(f"{prompt_tokens} tokens", max_model_len, param)
        return room if fill is None else min(fill, room)
    if requested > room:
        raise answer_too_long(requested, prompt_tokens, max_model_len, param)
    return requested
