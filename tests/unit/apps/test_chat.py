"""The chat session and its two backends: an engine of its own, and a server."""

import io
import json
from collections.abc import Callable, Generator

import httpx
import pytest
from fake_engine import Fakes

from gllm import LLM, SamplingParams
from gllm.apps.chat.offline import OfflineBackend
from gllm.apps.chat.online import OnlineBackend
from gllm.apps.chat.session import ChatError, ContextFull, Message, Session


class Scripted:
    """Answers `you said ...`; fails, runs out of context or is interrupted on demand."""

    def __init__(self, most_messages: int = 100) -> None:
        self.most = most_messages
        self.asked: list[list[Message]] = []
        self.closed = 0

    def answer(self, messages: list[Message]) -> Generator[str, None, None]:
        if len(messages) > self.most:
            raise ContextFull
        self.asked.append(list(messages))
        last = messages[-1]["content"]
        try:
            if last == "fail":
                raise ChatError("the engine is gone")
            yield "you "
            if last == "interrupt":
                raise KeyboardInterrupt
            yield f"said {last}"
        finally:
            self.closed += 1


def talk(backend: Scripted, *lines: str, system: str = "") -> tuple[Session, str]:
    out = io.StringIO()
    session = Session(backend, system=system, out=out)
    pending = iter(lines)

    def read() -> str:
        line = next(pending, None)
        if line is None:
            raise EOFError
        if line == "^C":
            raise KeyboardInterrupt
        return line

    session.run(read)
    return session, out.getvalue()


def contents(messages: list[Message]) -> list[str]:
    return [message["content"] for message in messages]


def test_turns_are_kept() -> None:
    backend = Scripted()
    session, out = talk(backend, "a", "", "b", system="be nice")
    assert contents(backend.asked[1]) == ["be nice", "a", "you said a", "b"]
    assert out == "you said a\nyou said b\n"
    assert session.turns[-1] == {"role": "assistant", "content": "you said b"}


def test_commands() -> None:
    backend = Scripted()
    lines = ["a", "/clear", "b", "/system talk like a pirate", "c", "/system", "d", "/help", "/wat", "/exit", "e"]
    _, out = talk(backend, *lines)
    assert [contents(messages) for messages in backend.asked] == [["a"], ["b"], ["talk like a pirate", "c"], ["d"]]
    assert "Ctrl-C" in out
    assert "no command /wat" in out


def test_an_interrupted_answer_is_kept_and_the_session_continues() -> None:
    backend = Scripted()
    session, out = talk(backend, "interrupt", "^C", "b")
    assert contents(session.turns) == ["interrupt", "you ", "b", "you said b"]
    assert "(stopped)" in out
    assert backend.closed == 2


def test_a_question_without_an_answer_is_removed_from_the_history() -> None:
    session, out = talk(Scripted(), "fail", "b")
    assert contents(session.turns) == ["b", "you said b"]
    assert "error: the engine is gone" in out


def test_old_turns_are_dropped_when_the_context_is_full() -> None:
    backend = Scripted(most_messages=4)
    talk(backend, "a", "b", "c", system="s")
    assert contents(backend.asked[-1]) == ["s", "b", "you said b", "c"]
    session, out = talk(Scripted(most_messages=0), "a")
    assert "longer than the model's context" in out
    assert not session.turns


def test_offline_backend(llm: LLM, fakes: Fakes) -> None:
    backend = OfflineBackend(llm, SamplingParams(max_tokens=1000))
    assert "".join(backend.answer([{"role": "user", "content": "hi"}])) == "USER:HI\n"
    # Context of 64: 8 tokens of prompt leave 56.
    assert fakes.client.submitted[-1][1].max_tokens == 56
    with pytest.raises(ContextFull):
        next(backend.answer([{"role": "user", "content": "x" * 50}]))
    backend = OfflineBackend(llm, SamplingParams())
    llm.close()
    with pytest.raises(ChatError, match="closed"):
        next(backend.answer([{"role": "user", "content": "hi"}]))


def online(handler: Callable[[httpx.Request], httpx.Response], **fields: object) -> OnlineBackend:
    client = httpx.Client(transport=httpx.MockTransport(handler), base_url="http://test")
    return OnlineBackend("http://test", fields=fields, client=client)


def sse(*events: object) -> httpx.Response:
    frames = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return httpx.Response(200, text=frames + "data: [DONE]\n\n")


def delta(text: str | None, finish: str | None = None) -> dict:
    return {"choices": [{"delta": {"content": text} if text else {}, "finish_reason": finish}]}


QUESTION: list[Message] = [{"role": "user", "content": "hi"}]


def test_online_backend() -> None:
    bodies: list[dict] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        bodies.append(json.loads(request.content))
        return sse(delta(None), delta("Hel"), delta("lo"), delta(None, "stop"), {"choices": [], "usage": {}})

    backend = online(handler, temperature=0.0)
    assert backend.connect() == "m"
    assert "".join(backend.answer(QUESTION)) == "Hello"
    assert bodies == [{"model": "m", "messages": QUESTION, "stream": True, "temperature": 0.0}]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (httpx.Response(400, json={"error": {"code": "context_length_exceeded"}}), ContextFull, None),
        (httpx.Response(401, json={"error": {"message": "no"}}), ChatError, "--api-key"),
        (httpx.Response(429, json={"error": {"message": "queue full"}}), ChatError, "queue full"),
        (httpx.Response(502, text="<html>"), ChatError, "answered 502"),
        (sse(delta("a"), {"error": {"message": "the engine died"}}), ChatError, "the engine died"),
        (sse(delta("a")), ChatError, "broke the answer off"),
    ],
)
def test_online_errors(answer: httpx.Response, error: type[Exception], message: str | None) -> None:
    with pytest.raises(error, match=message):
        list(online(lambda request: answer).answer(QUESTION))


def test_no_server_and_no_url() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ChatError, match="no server at http://test"):
        online(refuse).connect()
    with pytest.raises(ChatError, match="--url must look like"):
        OnlineBackend("ftp://localhost:8000")
