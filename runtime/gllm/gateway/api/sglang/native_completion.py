"""Converts SGLang's requests to completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import ValidationError

from gllm.gateway.protocol.completion_schema import CompletionRequest
from gllm.gateway.protocol.errors import bad_request
from gllm.gateway.protocol.sglang_schema import GenerateRequest, NativeSampling, ScoreRequest
from gllm.gateway.protocol.validation import from_validation
from gllm.gateway.shared.served_model import ServedModel
from gllm.sampling_params import MAX_LOGPROB_TOKEN_IDS

_RENAMED = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "sampling_seed": "seed"}


class NativeCompletion(CompletionRequest):
    """A completion with SGLang's defaults. `echo` alone does not ask for the prompt's logprobs."""

    prompt_field: ClassVar[str] = "text"
    default_max_tokens: ClassVar[int | None] = 128
    max_tokens: int | None = None

    @property
    def num_prompt_logprobs(self) -> int | None:
        return self.prompt_logprobs


class _IdsCompletion(NativeCompletion):
    prompt_field: ClassVar[str] = "input_ids"


class _Scoring(NativeCompletion):
    prompt_field: ClassVar[str] = "items"


def completion_of(request: GenerateRequest, model: ServedModel) -> NativeCompletion:
    """Return the completion request. Raises ApiError for values that a completion refuses."""
    sampling = request.sampling_params or NativeSampling()
    fields = {_RENAMED.get(name, name): getattr(sampling, name) for name in NativeSampling.model_fields}
    if sampling.max_new_tokens == 0:
        # A completion of no tokens only scores its prompt.
        fields["echo"] = True
    fields |= {
        "model": request.model,
        "prompt": request.prompts,
        "stream": request.stream,
        "priority": request.priority,
    }
    if request.return_logprob:
        tops = request.top_logprobs_num or 0
        fields |= {
            "logprobs": tops,
            "prompt_logprobs": tops if request.shows_prompt else None,
            "logprob_token_ids": asked_ids(request, model),
        }
    return _checked(NativeCompletion if request.input_ids is None else _IdsCompletion, fields)


def asked_ids(request: GenerateRequest, model: ServedModel) -> list[int]:
    """Return all ids of `token_ids_logprob`, each once. Raises ApiError for ids or lists that do not fit."""
    given = request.token_ids_logprob
    lists = ids_of_prompts(given)
    if lists is not None and not request.is_batch:
        raise _wrong_ids("for one text token_ids_logprob must be a flat list of integers")
    if lists is not None and len(lists) != len(request.prompts):
        raise _wrong_ids(f"token_ids_logprob has {len(lists)} lists for {len(request.prompts)} texts")
    flat: list[Any] = given or [] if lists is None else [token for ids in lists for token in ids]
    for token in flat:
        if not 0 <= token < model.config.vocab_size:
            size = model.config.vocab_size
            raise _wrong_ids(f"token_ids_logprob has the out-of-vocabulary id {token}: the model has {size} tokens")
    ids = list(dict.fromkeys(flat))
    if len(ids) > MAX_LOGPROB_TOKEN_IDS:
        raise _wrong_ids(f"token_ids_logprob names more than {MAX_LOGPROB_TOKEN_IDS} tokens")
    return ids


def ids_of_prompts(given: Sequence[int] | Sequence[list[int]] | None) -> list[list[int]] | None:
    """Return `token_ids_logprob` if it has a list for each prompt, else None."""
    lists = [ids for ids in given or () if isinstance(ids, list)]
    return lists or None


def _wrong_ids(message: str) -> Exception:
    return bad_request("token_ids_logprob", message, "invalid_value")


def scoring_of(request: ScoreRequest, model: ServedModel) -> NativeCompletion:
    """Return a completion request of one token for each item, with the labels' logprobs. Raises ApiError."""
    size = model.config.vocab_size
    for token in request.label_token_ids:
        if token >= size:
            raise bad_request(
                "label_token_ids",
                f"Token ID {token} is out of vocabulary: the model has {size} tokens.",
                "invalid_value",
            )
    return _checked(
        _Scoring,
        {
            "model": request.model,
            "prompt": request.prompts,
            "max_tokens": 1,
            "logprobs": 0,
            "logprob_token_ids": list(dict.fromkeys(request.label_token_ids)),
        },
    )


def _checked(kind: type[NativeCompletion], fields: dict[str, Any]) -> NativeCompletion:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_input=False)) from None
