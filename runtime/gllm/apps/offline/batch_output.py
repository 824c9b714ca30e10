"""The output of `gllm generate`: JSON lines, as in OpenAI's Batch API. A written line is never lost."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from gllm.apps.offline.batch_input import BatchRequest
from gllm.apps.offline.completion import Completion
from gllm.wire.messages import TokenLogprob


def finished_ids(path: Path) -> frozenset[str]:
    """Return the ids that an earlier run has answered.

    Records of errors, and a last line that a crash cut off, are removed from the file, so that these lines are tried
    again. Raises ValueError for a file that is not an output of `gllm generate`, and leaves it as it is.
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


def _is_answer(raw: bytes, where: str, done: set[str]) -> bool:
    """Whether a line of an output is an answer; its id is added to `done`. Raises ValueError for any other line."""
    try:
        record = json.loads(raw)
        custom_id, failed = record["custom_id"], record["error"] is not None
        if not failed:
            done.add(custom_id)
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{where} is not a record of `gllm generate`: take another --output, or --overwrite") from None
    return not failed


def write_record(file: IO[str], record: dict[str, Any]) -> None:
    """Write one line and flush it: a crash loses no line that was written."""
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()


def error_record(custom_id: str, line: int, field: str, message: str) -> dict[str, Any]:
    """Return the record of a line that has no answer. `field` is "" if the engine failed."""
    error = {"code": "invalid_request" if field else "engine_error", "message": message, "param": field, "line": line}
    return {"id": _new_id("batch_req"), "custom_id": custom_id, "response": None, "error": error}


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def answer_record(
    request: BatchRequest, completion: Completion, model: str, token_text: Callable[[int], str]
) -> dict[str, Any]:
    """Return the record of an answer; its body is the answer of the HTTP API."""
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
