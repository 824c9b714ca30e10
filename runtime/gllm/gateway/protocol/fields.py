"""Request fields without an effect: hints, and fields of other servers with values that change nothing.

The schemas have the implemented fields. A field that is neither here nor there is refused.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

HINTS: dict[str, str] = {
    "user": "names the caller, for the caller's own records",
    "safety_identifier": "names the caller, for the caller's own records",
    "metadata": "labels for the caller's own records",
    "custom_labels": "labels for the caller's own records",
    "request_id": "names the request, for the caller's own records; the header X-Request-Id is echoed",
    "rid": "names the request, for the caller's own records; the header X-Request-Id is echoed",
    "session_id": "names the conversation; each request contains the whole conversation",
    "store": "nothing is stored",
    "service_tier": "there is one tier",
    "verbosity": "no chat template reads it",
    "prompt_cache_key": "the prefix cache needs no key",
    "prompt_cache_retention": "the prefix cache keeps what fits",
    "prompt_cache_options": "the prefix cache keeps what fits",
    "cache_prompt": "--enable-prefix-caching decides; the answer is the same",
    "cache_control": "the prefix cache needs no marks",
    "id_slot": "there are no slots",
    "timings_per_token": "it adds to the answer of llama.cpp; timings are at /metrics",
    "return_progress": "it adds to the answer of llama.cpp; progress is not reported",
    "data_parallel_rank": "the router in front of the servers chooses one",
    "routed_dp_rank": "the router in front of the servers chooses one",
    "keep_alive": "the model stays loaded",
    "mirostat_tau": "Mirostat is not implemented",
    "mirostat_eta": "Mirostat is not implemented",
    "dynatemp_exponent": "the temperature is not dynamic",
    "xtc_threshold": "XTC is not implemented",
    "dry_base": "DRY is not implemented",
    "dry_allowed_length": "DRY is not implemented",
    "dry_penalty_last_n": "DRY is not implemented",
    "dry_sequence_breakers": "DRY is not implemented",
    "ngram_corpus_id": "it only makes some servers faster",
    "stream_interval": "each token is sent at once",
    "guided_decoding_backend": "the backend is llguidance",
    "spaces_between_special_tokens": "tokens are decoded to their own text, without spaces between them",
    "reasoning_effort": "in a chat it goes to the chat template, if that reads it",
    "chat_template_kwargs": "in a chat they go to the chat template, if that reads them",
    "parallel_tool_calls": "without tools there are no calls",
}
"""Fields that may have any value, and why none of these changes a token. A schema that implements a field keeps it."""


class Refused(NamedTuple):
    instead: str
    """Why the field is refused, and what to do instead."""
    harmless: tuple[Any, ...] = (False, "", [], {})
    """Values that do not change the answer; they are accepted."""


_BEAM_SEARCH = "beam search is not implemented"
_TEXT_ONLY = "this server reads and writes text only"
_NO_TRANSFER = "there is no KV transfer"
_USE_CHAT = "it belongs to /v1/chat/completions"
_USE_COMPLETIONS = "it belongs to /v1/completions"

REFUSED: dict[str, Refused] = {
    # OpenAI
    "audio": Refused(_TEXT_ONLY),
    "modalities": Refused(_TEXT_ONLY, ([], ["text"])),
    "function_call": Refused("use 'tool_choice'", ("none", "auto", "", {})),
    "functions": Refused("use 'tools'"),
    "moderation": Refused("there is no moderation here"),
    "prediction": Refused("predicted outputs are not implemented"),
    "web_search_options": Refused("this server does not search the web", (False, [])),
    "suffix": Refused("text is generated at the end of the prompt only"),
    # vLLM
    "return_prompt_text": Refused("/tokenize and /detokenize show the prompt"),
    "return_token_offsets": Refused("use the 'text_offset' of a completion's 'logprobs'"),
    "repetition_detection": Refused("use 'repetition_penalty'"),
    "watermarking": Refused("watermarks are not implemented"),
    "ec_transfer_params": Refused(_NO_TRANSFER),
    "use_beam_search": Refused(_BEAM_SEARCH),
    "length_penalty": Refused(_BEAM_SEARCH, (1,)),
    "early_stopping": Refused(_BEAM_SEARCH),
    "chat_template": Refused("the template comes from the model or from --chat-template, never from a request"),
    "documents": Refused("put documents into the messages"),
    "mm_processor_kwargs": Refused(_TEXT_ONLY),
    "media_io_kwargs": Refused(_TEXT_ONLY),
    "prompt_embeds": Refused("tensors are not accepted"),
    "logits_processors": Refused("code is not accepted"),
    "guided_whitespace_pattern": Refused("write a guided_grammar"),
    "structural_tag": Refused("use 'tools' or a guided_grammar"),
    "kv_transfer_params": Refused(_NO_TRANSFER),
    "vllm_xargs": Refused("there are no plug-ins to give arguments to"),
    "thinking_token_budget": Refused("pass what the model's template knows in 'chat_template_kwargs'", (-1,)),
    "include_reasoning": Refused(_USE_CHAT, (True,)),
    "detokenize": Refused("answers are text; 'return_token_ids' adds their ids", (True,)),
    # SGLang
    "return_prompt_token_ids": Refused("use 'return_token_ids'"),
    "return_cached_tokens_details": Refused("'usage' has the number of cached tokens"),
    "return_meta_info": Refused("the answer already has its metadata"),
    "input_ids": Refused("use /v1/completions with token ids"),
    "extra_key": Refused("use 'cache_salt'"),
    "images_config": Refused(_TEXT_ONLY),
    "use_audio_in_video": Refused(_TEXT_ONLY),
    "separate_reasoning": Refused("reasoning is separated when the server has a reasoning parser", (True,)),
    "stream_reasoning": Refused("reasoning is streamed as it is generated", (True,)),
    "lora_path": Refused("there are no adapters"),
    "session_params": Refused("send the whole conversation"),
    "return_hidden_states": Refused("hidden states are not returned"),
    "return_routed_experts": Refused("the experts of a token are not returned"),
    "custom_logit_processor": Refused("code is not accepted"),
    "custom_params": Refused("there are no plug-ins to give arguments to"),
    "bootstrap_host": Refused(_NO_TRANSFER),
    "bootstrap_port": Refused(_NO_TRANSFER),
    "bootstrap_room": Refused(_NO_TRANSFER),
    # llama.cpp
    "n_predict": Refused("use 'max_tokens'", (-1,)),
    "n_probs": Refused("use 'logprobs'", (0,)),
    "repeat_penalty": Refused("use 'repetition_penalty'", (1,)),
    "reasoning_format": Refused("reasoning is separated when the server has a reasoning parser", ("auto", "deepseek")),
    "parse_tool_calls": Refused("tool calls are always parsed", (True,)),
    "t_max_predict_ms": Refused("use 'max_tokens'", (0, -1)),
    "post_sampling_probs": Refused("use 'logprobs'"),
    "mirostat": Refused("Mirostat is not implemented", (0,)),
    "typical_p": Refused("use 'top_p' or 'min_p'", (1,)),
    "dynatemp_range": Refused("use 'temperature'", (0,)),
    "xtc_probability": Refused("XTC is not implemented", (0,)),
    "dry_multiplier": Refused("DRY is not implemented; use 'repetition_penalty'", (0,)),
    "top_n_sigma": Refused("use 'top_p' or 'min_p'", (-1, 0)),
    "tfs_z": Refused("use 'top_p' or 'min_p'", (1,)),
    "repeat_last_n": Refused("penalties count the whole text", (-1,)),
    "penalize_nl": Refused("penalties count every token alike", (True,)),
    "samplers": Refused("the order of sampling steps is fixed"),
    "min_keep": Refused("use 'top_k'", (0, 1)),
    "n_keep": Refused("use 'truncate_prompt_tokens'", (0, -1)),
    "n_discard": Refused("use 'truncate_prompt_tokens'", (0,)),
    "parse_special": Refused("special tokens in a prompt always count", (True,)),
    "lora": Refused("there are no adapters"),
    # Text generation inference, text-generation-webui, Ollama, Mistral
    "max_new_tokens": Refused("use 'max_tokens'", (-1,)),
    "do_sample": Refused("use 'temperature': 0 is greedy", (True,)),
    "top_a": Refused("use 'top_p' or 'min_p'", (0,)),
    "typical": Refused("use 'top_p' or 'min_p'", (1,)),
    "epsilon_cutoff": Refused("use 'top_p' or 'min_p'", (0,)),
    "eta_cutoff": Refused("use 'top_p' or 'min_p'", (0,)),
    "smoothing_factor": Refused("use 'temperature'", (0,)),
    "dynamic_temperature": Refused("use 'temperature'"),
    "penalty_alpha": Refused("contrastive search is not implemented", (0,)),
    "guidance_scale": Refused("classifier-free guidance is not implemented", (1,)),
    "negative_prompt": Refused("classifier-free guidance is not implemented"),
    "no_repeat_ngram_size": Refused("use 'repetition_penalty'", (0,)),
    "encoder_repetition_penalty": Refused("use 'repetition_penalty'", (1,)),
    "ban_eos_token": Refused("use 'ignore_eos'"),
    "options": Refused("send its fields at the top level, by OpenAI's names", ({},)),
    "format": Refused("use 'response_format'", ("",)),
    "think": Refused("use 'reasoning_effort'", ()),
    "safe_prompt": Refused("say it in a system message"),
    "random_seed": Refused("use 'seed'", ()),
    # Services
    "reasoning": Refused("use 'reasoning_effort'", ({},)),
    "thinking": Refused("use 'reasoning_effort' or 'chat_template_kwargs'", ({},)),
    "enable_thinking": Refused('use "chat_template_kwargs": {"enable_thinking": ...}', ()),
    "extra_body": Refused("send its fields at the top level of the body"),
    # Fields of one endpoint that are sent to another
    "best_of": Refused(_USE_COMPLETIONS, (1,)),
    "messages": Refused(_USE_CHAT),
    "prompt": Refused(_USE_COMPLETIONS, ()),
    "tools": Refused(_USE_CHAT),
    "tool_choice": Refused(_USE_CHAT, ("none", "auto", "", {})),
    "top_logprobs": Refused("use 'logprobs', which is a number here", (0,)),
    "max_completion_tokens": Refused("use 'max_tokens'", ()),
    "continue_final_message": Refused(_USE_CHAT),
    "add_generation_prompt": Refused(_USE_CHAT, (False, True)),
}
"""Fields of OpenAI and of other servers that would change the answer. A schema that implements a field keeps it."""


EMPTY: dict[str, tuple[Any, ...]] = {
    "response_format": ({}, ""),
    "structured_outputs": ({},),
    "tool_choice": ("",),
    "stream_options": ({},),
    "chat_template_kwargs": ([],),
    "logit_bias": ([],),
    "logprobs": (False,),
    "prompt_logprobs": (False,),
    "stop_regex": ("",),
    "guided_json": ("",),
    "guided_regex": ("",),
    "guided_grammar": ("",),
    "json_schema": ("",),
    "regex": ("",),
    "ebnf": ("",),
    "grammar": ("",),
    "reasoning_effort": ("", False),
}
"""Implemented fields, and the values that count as not given, though the schema would refuse them."""


def without_no_ops(body: dict[str, Any], implemented: Container[str]) -> dict[str, Any]:
    """Return a request's fields, but drop all that change nothing: null, hints, harmless and empty values."""

    def asks(name: str, value: Any) -> bool:
        if value is None:
            return False
        if name in implemented:
            return not _is_one_of(value, EMPTY.get(name, ()))
        return name not in HINTS and not (name in REFUSED and _is_one_of(value, REFUSED[name].harmless))

    return {name: value for name, value in body.items() if asks(name, value)}


def _is_one_of(value: Any, known: tuple[Any, ...]) -> bool:
    """Whether a value is a known one. 1 equals 1.0 here, but not true."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in known)
