"""All errors that a client can receive, in the format of OpenAI, Anthropic or SGLang.

OpenAI: `{"error": {"message", "type", "param", "code"}}`.
Anthropic: `{"type": "error", "error": {"type", "message", "details"}, "request_id"}`.
SGLang, for /v1/score: `{"object": "error", "message", "type", "param", "code"}`, with OpenAI's `error` beside them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gllm.sampling_params import ParameterError

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}
_ANTHROPIC_NAMES = (
    ("response_format", "output_config.format"),
    (".function.parameters", ".input_schema"),
    (".function", ""),
)
"""Names of fields in a chat request, and Anthropic's names for them."""
_SGLANG_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    503: "ServiceUnavailableError",
}

INTERNAL_MESSAGE = "The server had an error while processing your request."


class ApiError(Exception):
    """An error response: HTTP status, OpenAI's error object and optionally `Retry-After` (seconds)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.allow = allow

    def body(self) -> bytes:
        """OpenAI's JSON object, for a response body or an SSE frame."""
        return msgspec.json.encode({"error": self._openai_object()})

    def _openai_object(self) -> dict[str, Any]:
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}

    def sglang_object(self) -> dict[str, Any]:
        """SGLang's object, for a response body."""
        return {
            "object": "error",
            "message": self.message,
            "type": _SGLANG_TYPES.get(self.status, "InternalServerError"),
            "param": self.param,
            "code": self.status,
            "error": self._openai_object(),
        }

    def anthropic_object(self, request_id: str | None = None) -> dict[str, Any]:
        """Anthropic's object, for a response body or an event."""
        message = self.message
        if self.param is not None:
            name = self.param
            for chat_name, own_name in _ANTHROPIC_NAMES:
                name = name.replace(chat_name, own_name)
            message = message.replace(self.param, name)
        error: dict[str, Any] = {
            "type": _ANTHROPIC_TYPES.get(self.status, "invalid_request_error"),
            "message": message,
        }
        if self.code is not None:
            error["details"] = {"error_code": self.code}
        return {"type": "error", "error": error, "request_id": request_id}


def bad_request(param: str | None, message: str, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def unauthorized() -> ApiError:
    return ApiError(
        401,
        "Incorrect or missing API key; send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
        kind="authentication_error",
        code="invalid_api_key",
    )


def body_too_large(limit: int) -> ApiError:
    return ApiError(413, f"The request body is larger than {limit} bytes.", code="request_too_large")


def overloaded(reason: str, retry_after: int) -> ApiError:
    return ApiError(429, reason, kind="rate_limit_error", code="rate_limit_exceeded", retry_after=retry_after)


def unavailable(reason: str, code: str = "service_unavailable", retry_after: int = 1) -> ApiError:
    return ApiError(503, reason, kind="server_error", code=code, retry_after=retry_after)


def engine_dead(reason: str) -> ApiError:
    """Return the error for an engine that stopped during a request. The client may send it again to a new engine."""
    return unavailable(f"The engine stopped while it worked on this request: {reason}", code="engine_dead")


def internal_error() -> ApiError:
    """Return an error with a fixed text: a response does not show the exception."""
    return ApiError(500, INTERNAL_MESSAGE, kind="server_error", code="internal_error")


def _context_too_long(message: str, param: str) -> ApiError:
    return bad_request(param, message, "context_length_exceeded")


def prompt_too_long(size: str, max_model_len: int, param: str) -> ApiError:
    """size: such as "5 tokens". Clients that shorten a chat look for these phrases of OpenAI, vLLM and SGLang."""
    return _context_too_long(
        f"The prompt has {size} and is longer than the model's context length. "
        f"This model's maximum context length is {max_model_len} tokens, and one is for the answer.",
        param,
    )


def answer_too_long(requested: int, prompt_tokens: int, max_model_len: int, param: str) -> ApiError:
    return _context_too_long(
        f"max_tokens, max_output_tokens or max_completion_tokens is too large: {requested}. "
        f"This model's maximum context length is {max_model_len} tokens, and the prompt has {prompt_tokens}.",
        param,
    )


def from_parameter_error(error: ParameterError) -> ApiError:
    return bad_request(error.param, str(error), "invalid_value")
