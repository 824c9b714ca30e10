"""The response object."""

from __future__ import annotations

import time
from typing import Any

from gllm.gateway.api.responses.output import ResponseStatus
from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.protocol.item_schema import Item
from gllm.gateway.protocol.responses_schema import FunctionTool, ResponsesRequest
from gllm.gateway.protocol.usage import responses_usage
from gllm.gateway.request.chat_turn import ChatTurn


class ResponseObject:
    """Renders one response: in progress, finished or failed."""

    def __init__(self, request: ResponsesRequest, turn: ChatTurn) -> None:
        self._turn = turn
        # The engine's parameters, with the model's defaults.
        sampling = turn.generation.choices[0].sampling
        reasoning = request.reasoning
        self._settings = {
            "model": turn.model.name,
            "previous_response_id": request.previous_response_id,
            "instructions": request.instructions,
            "tools": [_tool(tool) for tool in request.tools or ()],
            "tool_choice": _tool_choice(request),
            "truncation": request.truncation or "disabled",
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "text": _text_config(request),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "top_logprobs": request.top_logprobs or 0,
            "reasoning": {
                "effort": reasoning.effort if reasoning else None,
                "summary": reasoning.summary if reasoning and reasoning.summary != "none" else None,
            },
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": request.max_tool_calls,
            "store": request.stored,
            "background": False,
            "service_tier": "default",
            "metadata": request.metadata or {},
            "user": request.user,
            "safety_identifier": request.safety_identifier,
            "prompt_cache_key": request.prompt_cache_key,
        }

    def in_progress(self) -> dict[str, Any]:
        return self._render("in_progress", [])

    def finished(self, status: ResponseStatus, output: list[Item]) -> dict[str, Any]:
        if status == "incomplete":
            return self._render("incomplete", output, incomplete_details={"reason": "max_output_tokens"})
        return self._render("completed", output, completed_at=int(time.time()))

    def failed(self, output: list[Item], error: ApiError) -> dict[str, Any]:
        # These are OpenAI's codes. invalid_prompt is for example a grammar that proves too complex during generation.
        code = "server_error" if error.status >= 500 else "invalid_prompt"
        return self._render("failed", output, error={"code": code, "message": error.message})

    def _render(self, status: str, output: list[Item], **more: Any) -> dict[str, Any]:
        ended = status != "in_progress"
        return {
            "id": self._turn.generation.id,
            "object": "response",
            "created_at": self._turn.generation.created,
            "completed_at": None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": output,
            "usage": responses_usage(self._turn.counts()) if ended else None,
            **self._settings,
            **more,
        }


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def _tool_choice(request: ResponsesRequest) -> Any:
    choice = request.tool_choice
    return choice if isinstance(choice, str) else choice.model_dump() if choice is not None else "auto"


def _text_config(request: ResponsesRequest) -> dict[str, Any]:
    text = request.text
    form = text.format if text is not None else None
    return {
        "format": form.model_dump(by_alias=True) if form is not None else {"type": "text"},
        "verbosity": (text.verbosity if text is not None else None) or "medium",
    }
