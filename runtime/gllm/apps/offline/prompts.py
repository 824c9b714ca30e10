"""Prompts as a user gives them, and their token ids."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from gllm.apps.offline.completion import stop_patterns
from gllm.config import Config
from gllm.sampling_params import ParameterError, SamplingParams
from gllm.text.request_tokens import truncation_for

if TYPE_CHECKING:
    from gllm.text.templates.chat_template import ChatTemplate
    from gllm.text.tokenizer import Tokenizer

Message = dict[str, Any]
Prompt = str | list[int] | list[Message]
"""Text, token ids, or a conversation."""


def as_prompts(prompts: Any) -> list[Prompt]:
    """Return one prompt or several as a list. Raises ParameterError, which names a prompt of another type."""
    if isinstance(prompts, str):
        return [prompts]
    listed = list(prompts)
    if listed and all(type(token) is int for token in listed):
        return [listed]
    for index, prompt in enumerate(listed):
        if not isinstance(prompt, str | list | tuple) or (prompt and isinstance(prompt[0], dict)):
            raise ParameterError(
                "prompts", f"prompts[{index}] must be text or a list of token ids (for conversations use chat)"
            )
    return [prompt if isinstance(prompt, str) else list(prompt) for prompt in listed]


class PromptEncoder:
    """Encodes prompts, and refuses prompts that the model cannot serve. Loads tokenizer and template on first use."""

    def __init__(self, config: Config, *, vocab_size: int, max_model_len: int) -> None:
        self._config = config
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from gllm.text.tokenizer import load_tokenizer

        return load_tokenizer(self._config.engine.model)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        from gllm.text.templates.chat_template import ChatTemplate

        settings = self._config.gateway
        return ChatTemplate.of_model(
            self.tokenizer, settings.chat_template, allow_special_tokens=settings.allow_special_tokens
        )

    def chat_token_ids(self, messages: list[Message]) -> list[int]:
        """Return the token ids of a conversation, by the model's chat template."""
        return self.tokenizer.encode(self.chat_template.render(messages), add_special_tokens=False)

    def encode(self, prompt: Prompt, sampling: SamplingParams) -> tuple[str | None, list[int]]:
        """Return (text, token ids) of a prompt; the text is None if the prompt is token ids.

        Raises ParameterError for a prompt that does not fit beside the answer, or with ids beyond the vocabulary.
        """
        text: str | None = None
        if isinstance(prompt, str):
            text, field = prompt, "prompt"
            token_ids = self.tokenizer.encode(text)
        elif prompt and isinstance(prompt[0], dict):
            field = "messages"
            text = self.chat_template.render(prompt)
            token_ids = self.tokenizer.encode(text, add_special_tokens=False)
        else:
            field, token_ids = "prompt", list(cast("list[int]", prompt))
        self._check_tokens(field, token_ids)
        truncation = truncation_for(
            sampling.truncate_prompt_tokens, sampling.truncation_side, sampling.max_tokens, self._max_model_len
        )
        if truncation is not None:
            token_ids = truncation.cut(token_ids, self.tokenizer.encode("") if isinstance(prompt, str) else [])
        if sampling.stop_regex:
            stop_patterns(sampling.stop_regex)  # refuses a wrong pattern before any work is done
        room = self._max_model_len - len(token_ids)
        least = max(1, sampling.max_tokens or 1)
        if least > room:
            raise ParameterError(
                field if room < 1 else "max_tokens",
                f"{field} has {len(token_ids)} tokens and at least {least} more were asked for, "
                f"but the context has {self._max_model_len}",
            )
        return text, token_ids

    def _check_tokens(self, field: str, token_ids: list[int]) -> None:
        if not token_ids:
            raise ParameterError(field, f"{field} is empty")
        if not all(type(token) is int for token in token_ids):
            raise ParameterError(field, f"{field} must be text, or a list of whole numbers")
        if min(token_ids) < 0 or max(token_ids) >= self._vocab_size:
            raise ParameterError(
                field, f"{field}: token ids must be from 0 to {self._vocab_size - 1}, the model's vocabulary"
            )
