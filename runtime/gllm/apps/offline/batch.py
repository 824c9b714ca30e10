"""Offline batches: JSON lines in, JSON lines out, in the format of OpenAI's Batch API. No line is ever lost."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from gllm.apps.offline.llm import Completion
from gllm.apps.offline.prompts import Prompt
from gllm.sampling_params import ParameterError, SamplingParams
from gllm.wire.messages import TokenLogprob

_SAMPLING_FIELDS = frozenset(SamplingParams.__struct_fields__)
_CHAT, _TEXT = "/v1/chat/completions", "/v1/completions"
_ENVELOPE = frozenset({"custom_id", "method", "url", "body"})


class BatchRequest(msgspec.Struct, frozen=True):
    """One line of the input, understood."""

    custom_id: str
    line: int
    prompt: Prompt
    sampling: SamplingParams
    chat: bool


class BadLine(msgspec.Struct, frozen=True):
    """One line of the input that cannot be served."""

    custom_id: str
    line: int
    field: str
    message: str


def read_requests(
    lines: Iterable[bytes], default: Callable[..., SamplingParams], skip: frozenset[str] = frozenset(), model: str = ""
) -> Iterator[BatchRequest | BadLine]:
    """Parse the lines one by one, without those whose id is in `skip`; blank lines are passed over.

    A line is OpenAI's {"custom_id", "url", "body": {...}}, or the body alone: {"prompt": ...} or {"messages": [...]}
    with any fields of SamplingParams. A line without `custom_id` (or `id`) is called line-N, N counting from 1.

    Args:
        default: makes the sampling parameters from a line's overrides (see `LLM.default_sampling`).
        model: the only name that a line may give its model; "": any.
    """
    seen: set[str] = set()
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        request = parse_line(raw, number, default, model)
        if request.custom_id in seen:
            # An output with this id would hide the other one's at the next resume.
            request = BadLine(f"line-{number}", number, "custom_id", f"{request.custom_id!r} was used before")
        seen.add(request.custom_id)
        if request.custom_id not in skip:
            yield request


def parse_line(
    raw: bytes, number: int, default: Callable[..., SamplingParams], model: str = ""
) -> BatchRequest | BadLine:
    """A request, or what is wrong with it."""
    custom_id = f"line-{number}"
    try:
        try:
            line = json.loads(raw)
        except ValueError as error:
            raise ParameterError("json", f"not JSON: {error}") from None
        if not isinstance(line, dict):
            raise ParameterError("json", "the line must be a JSON object")
        given = line.get("custom_id", line.get("id"))
        if given is not None:
            if not isinstance(given, str | int):
                raise ParameterError("custom_id", "custom_id must be a string")
            custom_id = str(given)
        url, body = _split_envelope(line)
        _check_model(body.pop("model", None), model)
        return _parse_body(custom_id, number, url, body, default)
    except ParameterError as error:
        return BadLine(custom_id, number, error.param, str(error))
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ParameterError):
            return BadLine(custom_id, number, error.__cause__.param, str(error.__cause__))
        # msgspec says where: "Expected `float`, got `str` - at `$.temperature`"
        return BadLine(custom_id, number, str(error).rpartition("$.")[2].strip("`") or "body", str(error))


def _split_envelope(line: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(url or "", body)"""
    if "body" not in line:
        return "", {name: value for name, value in line.items() if name not in ("custom_id", "id")}
    unknown = line.keys() - _ENVELOPE - {"id"}
    if unknown:
        raise ParameterError(min(unknown), f"{min(unknown)} is no field of a batch line")
    url = line.get("url", "")
    if url not in ("", _CHAT, _TEXT):
        raise ParameterError("url", f"url must be {_CHAT} or {_TEXT}, not {url!r}")
    if not isinstance(line["body"], dict):
        raise ParameterError("body", "body must be a JSON object")
    return url, dict(line["body"])


def _parse_body(
    custom_id: str, line: int, url: str, body: dict[str, Any], default: Callable[..., SamplingParams]
) -> BatchRequest:
    if body.pop("stream", False):
        raise ParameterError("stream", "stream has no meaning in a batch: leave it out")
    chat = "messages" in body
    if chat == ("prompt" in body) or (url == _CHAT and not chat) or (url == _TEXT and chat):
        raise ParameterError("prompt", "the line must have either prompt or messages, as its url says")
    prompt = _messages(body.pop("messages")) if chat else _prompt(body.pop("prompt"))
    return BatchRequest(custom_id, line, prompt, _sampling(body, chat, default), chat)


def _check_model(named: Any, served: str) -> None:
    """As over HTTP: no name, or an empty one, means the model there is."""
    if named and served and named != served:
        raise ParameterError("model", f"the model {named!r} does not exist here, this run has {served!r} "
                             "(--served-model-name sets another name)")  # fmt: skip


def _messages(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise ParameterError("messages", 'messages must be a list of {"role": ..., "content": ...}')
    return messages


def _prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return prompt
    raise ParameterError("prompt", "prompt must be text or a list of token ids, and not empty (one prompt a line)")


def _sampling(fields: dict[str, Any], chat: bool, default: Callable[..., SamplingParams]) -> SamplingParams:
    """OpenAI's names to ours; a field that nothing here acts on is refused by name."""
    fields = {name: value for name, value in fields.items() if value is not None}
    if "max_completion_tokens" in fields:
        fields["max_tokens"] = fields.pop("max_completion_tokens")
    for name in ("stop", "stop_regex"):
        if isinstance(fields.get(name), str):
            fields[name] = [fields[name]]
    if chat and "logprobs" in fields:
        wanted = fields.pop("logprobs")
        if not isinstance(wanted, bool):
            raise ParameterError("logprobs", "logprobs must be true or false in a chat request")
        top = fields.pop("top_logprobs", 0)
        if wanted:
            fields["logprobs"] = top
    if "response_format" in fields:
        grammar = _grammar(fields.pop("response_format"))
        if grammar:
            fields["grammar"] = grammar
    unknown = fields.keys() - _SAMPLING_FIELDS
    if unknown:
        raise ParameterError(min(unknown), f"{min(unknown)} is not supported in a batch line")
    typed = msgspec.convert(fields, SamplingParams, str_keys=True)
    return default(**{name: getattr(typed, name) for name in fields})


def _grammar(response_format: Any) -> str | None:
    """The grammar of OpenAI's response_format; None for plain text."""
    from gllm.text.grammar import any_json_object, grammar_from_json_schema

    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return any_json_object()
    form = response_format.get("json_schema") if kind == "json_schema" else None
    if not isinstance(form, dict) or not isinstance(form.get("schema"), dict):
        raise ParameterError(
            "response_format", "response_format must have the type text, json_object or json_schema (with its schema)"
        )
    return grammar_from_json_schema(form["schema"])


# --- output -------------------------------------------------------------------------------------------


def finished_ids(path: Path) -> frozenset[str]:
    """Ids that an earlier run already answered.

    Records of errors are no answers: they are taken out of the file, as a last line torn by a crash is, so that the
    lines are tried again. Raises ValueError for a file that is not our output, and leaves it as it is.
    """
    if not path.exists():
        return frozenset()
    done: set[str] = set()
    dropped = False
    kept = path.with_name(f"{path.name}.answers")
    try:
        with path.open("rb") as file, kept.open("wb") as answers:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    dropped = True
                elif _is_answer(raw, f"{path}:{number}", done):
                    answers.write(raw)
                else:
                    dropped = True
        if dropped:
            kept.replace(path)
    finally:
        kept.unlink(missing_ok=True)
    return frozenset(done)


def _is_answer(raw: bytes, place: str, done: set[str]) -> bool:
    """Whether a line of an output is an answer, whose id is then added; ValueError if it is none of ours."""
    try:
        record = json.loads(raw)
        custom_id, failed = record["custom_id"], record["error"] is not None
        if not failed:
            done.add(custom_id)
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{place} is no record of `gllm generate`: choose another --output, or --overwrite") from None
    return not failed


def write_record(file: IO[str], record: dict[str, Any]) -> None:
    """One line, handed to the system at once: a crash loses none that was written."""
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()


def error_record(custom_id: str, line: int, field: str, message: str) -> dict[str, Any]:
    """What is written for a line that cannot be served. `field` is "" if the engine gave it up."""
    error = {"code": "invalid_request" if field else "engine_error", "message": message, "param": field, "line": line}
    return {"id": _new_id("batch_req"), "custom_id": custom_id, "response": None, "error": error}


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def answer_record(
    request: BatchRequest, completion: Completion, model: str, token_text: Callable[[int], str]
) -> dict[str, Any]:
    """A line of OpenAI's batch output: the body is what the API would have answered."""
    if completion.error:
        return error_record(request.custom_id, request.line, "", completion.error)
    choices = []
    for output in completion.outputs:
        choice: dict[str, Any] = {"index": output.index, "finish_reason": output.finish_reason}
        if output.stop_reason is not None:
            choice["stop_reason"] = output.stop_reason
        if request.chat:
            choice["message"] = {"role": "assistant", "content": output.text}
        else:
            choice["text"] = output.text
        if output.logprobs is not None:
            choice["logprobs"] = {"content": [_logprob(entry, token_text) for entry in output.logprobs]}
        choices.append(choice)
    generated = sum(len(output.token_ids) for output in completion.outputs)
    prompt_tokens = len(completion.prompt_token_ids)
    body: dict[str, Any] = {
        "id": f"{'chatcmpl' if request.chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": "chat.completion" if request.chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": prompt_tokens + generated,
        },
    }
    if completion.prompt_logprobs is not None:
        body["prompt_logprobs"] = [
            _logprob(entry, token_text) if entry is not None else None for entry in completion.prompt_logprobs
        ]
    response = {"status_code": 200, "request_id": _new_id("req"), "body": body}
    return {"id": _new_id("batch_req"), "custom_id": request.custom_id, "response": response, "error": None}


def _logprob(entry: TokenLogprob, token_text: Callable[[int], str]) -> dict[str, Any]:
    return {
        "token": token_text(entry.token_id),
        "token_id": entry.token_id,
        "logprob": entry.logprob,
        "top_logprobs": [
            {"token": token_text(token), "token_id": token, "logprob": logprob} for token, logprob in entry.top
        ],
    }
