"""What becomes of every request field we know of: implemented, accepted as a no-op, or refused by name.

`REFUSED` and `NO_OP` are the whole story of the fields that do nothing; a test walks the schemas and OpenAI's own
client so that no field can be accepted without being in here or in `IMPLEMENTED_*`.
"""

from __future__ import annotations

SAMPLING_IMPLEMENTED = frozenset(
    [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "stop_token_ids",
        "include_stop_str_in_output",
        "min_tokens",
        "ignore_eos",
        "skip_special_tokens",
        "logit_bias",
        "logprobs",
        "prompt_logprobs",
        "n",
        "stream",
        "stream_options",
        "priority",
        "cache_salt",
        "add_special_tokens",
        "response_format",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "model",
        "max_tokens",
    ]
)

CHAT_IMPLEMENTED = SAMPLING_IMPLEMENTED | frozenset(
    [
        "messages",
        "max_completion_tokens",
        "top_logprobs",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template_kwargs",
    ]
)

COMPLETION_IMPLEMENTED = SAMPLING_IMPLEMENTED | frozenset({"prompt", "echo", "best_of"})

NO_OP: dict[str, str] = {
    "user": "an identifier for the caller's own books; it has no effect on the answer",
    "safety_identifier": "an identifier for the caller's own books; it has no effect on the answer",
    "prompt_cache_key": "a routing hint; the prefix cache here needs none",
    "prompt_cache_retention": "only 'in_memory' (or 'in-memory'), which is how the prefix cache works",
    "metadata": "the caller's own labels; with store=false nothing reads them",
    "store": "only false",
    "service_tier": "only 'auto' and 'default'",
    "modalities": "only ['text']",
    "verbosity": "only 'medium', OpenAI's default",
    "spaces_between_special_tokens": "only true",
    "use_beam_search": "only false",
}
"""Fields that are checked, bounded and then have nothing to do, with the values they may have."""

REFUSED: dict[str, str] = {
    "audio": "this server answers with text only",
    "function_call": "use 'tool_choice'",
    "functions": "use 'tools'",
    "moderation": "there is no moderation here",
    "prediction": "predicted outputs are not implemented",
    "prompt_cache_options": "the prefix cache has no per-request options but 'cache_salt'",
    "reasoning_effort": "pass what the model's template knows in 'chat_template_kwargs', "
    'for example {"enable_thinking": false}',
    "web_search_options": "this server does not search the web",
    "suffix": "text is generated at the end of the prompt only",
    "chat_template": "the template comes from the model or from --chat-template, never from a request",
    "documents": "put documents into the messages",
    "mm_processor_kwargs": "this server reads text only",
    "prompt_embeds": "tensors are not accepted",
    "length_penalty": "beam search is not implemented",
    "early_stopping": "beam search is not implemented",
    "bad_words": "use 'logit_bias'",
    "allowed_token_ids": "use 'logit_bias' or 'guided_choice'",
    "logits_processors": "code is not accepted",
    "truncate_prompt_tokens": "shorten the prompt instead",
    "request_id": "send the header X-Request-Id, which is echoed",
    "guided_decoding_backend": "the backend is llguidance",
    "guided_whitespace_pattern": "write a guided_grammar",
    "kv_transfer_params": "there is no KV transfer",
    "thinking_token_budget": "pass what the model's template knows in 'chat_template_kwargs'",
    "include_reasoning": "reasoning is returned when the server has a reasoning parser",
    "return_token_ids": "use 'logprobs' or /tokenize",
    "return_tokens_as_token_ids": "use /tokenize",
}
"""Fields of OpenAI and of other servers that are refused, and what to do instead. Others are refused too."""
