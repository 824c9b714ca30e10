"""truncation "auto": drops the oldest messages until the rest fits the context."""

from __future__ import annotations

from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.protocol.message_schema import ChatMessage
from gllm.gateway.request.prompt_encoding import prompts_of
from gllm.gateway.request.request_sampling import fit_max_tokens
from gllm.gateway.shared.gateway import Gateway
from gllm.gateway.shared.served_model import ServedModel


async def truncated(request: ChatRequest, gateway: Gateway) -> ChatRequest:
    """Return the request with as few messages dropped as possible. System messages and the last message stay.

    Raises ApiError if the rest is still too long.
    """
    max_model_len = gateway.limits().max_model_len
    return await gateway.model.threads.run(request.num_chars, lambda: _truncate(request, gateway.model, max_model_len))


def _truncate(request: ChatRequest, model: ServedModel, max_model_len: int) -> ChatRequest:
    """Find the least number of messages to drop, by a binary search that renders the conversation in each step.

    It runs in a text thread.
    """

    def error_without(dropped: int) -> ApiError | None:
        shorter = request.model_copy(update={"messages": _without(request.messages, dropped)})
        try:
            (prompt,) = prompts_of(model, shorter, max_model_len)
            fit_max_tokens(shorter, len(prompt.token_ids), max_model_len)
        except ApiError as error:
            if error.code != "context_length_exceeded":
                raise
            return error
        return None

    # The first message that is kept must not be the result of a tool: that needs the message before it.
    ends = [0, *(i for i, message in enumerate(request.messages) if i and message.role != "tool")]
    if error_without(0) is None:
        return request
    low, high = 1, len(ends)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if error_without(ends[middle]) is None else (middle + 1, high)
    if low == len(ends):
        error = error_without(ends[-1])
        assert error is not None
        raise error
    return request.model_copy(update={"messages": _without(request.messages, ends[low])})


def _without(messages: list[ChatMessage], dropped: int) -> list[ChatMessage]:
    return [message for message in messages[:dropped] if message.role in ("system", "developer")] + messages[dropped:]
