"""Fakes for the gateway's tests: an engine, grammars, a byte tokenizer, and a server in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self

import tokenizers

from gllm.config import Config, EngineConfig, GatewayConfig
from gllm.engine.client.stream import EngineError
from gllm.gateway.http.server import HttpServer, bind
from gllm.gateway.routes.app import create_app
from gllm.gateway.shared.gateway import Gateway
from gllm.gateway.shared.gateways import Gateways
from gllm.gateway.shared.served_model import ServedModel
from gllm.models.config import ModelConfig, RopeConfig
from gllm.sampling_params import ParameterError, SamplingParams
from gllm.text.templates.chat_template import ChatTemplate
from gllm.text.tokenizer import Tokenizer
from gllm.wire.messages import EngineStats, Hello, RequestOutput, TokenLogprob
from gllm.wire.origin import NO_ORIGIN, Origin

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if tools %}[{% for t in tools %}{{ t.function.name }},{% endfor %}]{% endif %}"
    "{% if enable_thinking %}(think){% endif %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
VOCAB = 300
EOS = 256
Reply = Callable[[list[int], SamplingParams], Sequence[int]]


def byte_tokenizer() -> Tokenizer:
    """256 tokens of one byte each, <eos> (256) and <bos> (257)."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    # Byte-level BPE spells byte b as a printable character; the order of ids is that of the bytes.
    spelled = _byte_spellings()
    assert sorted(spelled) == alphabet
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({s: i for i, s in enumerate(spelled)}, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<eos>", "<bos>"])
    return Tokenizer(backend, bos_token="<bos>", eos_token="<eos>", chat_templates={"default": TEMPLATE})


def _byte_spellings() -> list[str]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelled, extra = [], 0
    for byte in range(256):
        if byte in plain:
            spelled.append(chr(byte))
        else:
            spelled.append(chr(256 + extra))
            extra += 1
    return spelled


class FakeStream(AsyncIterator[RequestOutput]):
    """The outputs of one request: a token in each step, held by `hold_at`."""

    def __init__(self, engine: FakeEngine, request_id: str, prompt: list[int], sampling: SamplingParams) -> None:
        self.engine = engine
        self.request_id = request_id
        self.prompt = prompt
        self.sampling = sampling
        self.tokens = list(engine.reply(prompt, sampling))
        self.position = 0
        self.ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RequestOutput:
        if self.ended:
            raise StopAsyncIteration
        try:
            await self.engine.turn(self)
        except asyncio.CancelledError:
            await self.aclose()
            raise
        engine = self.engine
        engine.stats.step += 1
        if engine.fail_at is not None and self.position >= engine.fail_at:
            self.ended = True
            engine.live.pop(self.request_id, None)
            error = engine.invalid or "secret detail of the engine"
            return RequestOutput(
                request_id=self.request_id,
                token_ids=[],
                finish_reason="error",
                error=error,
                invalid_request=bool(engine.invalid),
            )
        count = engine.tokens_per_output
        limit = self.sampling.max_tokens or 0
        ids = self.tokens[self.position : min(self.position + count, limit)]
        first = self.position == 0
        self.position += len(ids)
        stop = ids[-1] if ids and ids[-1] in engine.stop_at and not self.sampling.ignore_eos else None
        reason = "stop" if stop is not None else None
        if reason is None and (self.position >= limit or self.position >= len(self.tokens)):
            reason = "length"
        if reason is not None:
            self.ended = True
            engine.live.pop(self.request_id, None)
        return RequestOutput(
            request_id=self.request_id,
            token_ids=ids,
            finish_reason=reason,
            stop_token_id=stop,
            logprobs=[fake_logprob(t, self.sampling.logprobs, self.sampling.logprob_token_ids) for t in ids]
            if self.sampling.logprobs is not None
            else None,
            prompt_logprobs=self._prompt_logprobs() if first else None,
            num_cached_tokens=engine.cached_tokens if first else 0,
            queue_time=0.01 if first else 0.0,
            prefill_time=0.02 if first else 0.0,
        )

    def _prompt_logprobs(self) -> list[TokenLogprob | None] | None:
        wanted = self.sampling.prompt_logprobs
        if wanted is None:
            return None
        return [None, *(fake_logprob(token, wanted) for token in self.prompt[1:])]

    async def aclose(self) -> None:
        if not self.ended:
            self.ended = True
            if self.engine.live.pop(self.request_id, None) is not None:
                self.engine.aborted.append(self.request_id)


def fake_logprob(token: int, top: int, asked: Sequence[int] = ()) -> TokenLogprob:
    """asked: the ids of `logprob_token_ids`; the logprob of each is minus a hundredth of it."""
    if asked:
        return TokenLogprob(token_id=token, logprob=-0.5, rank=1, top=[(one, -one / 100) for one in asked])
    return TokenLogprob(token_id=token, logprob=-0.5, rank=1, top=[(token, -0.5), (ord("z"), float("-inf"))][:top])


class FakeEngine:
    """EngineClient's interface. Runs in the server's loop; tests set its plain fields before they send a request."""

    def __init__(self, max_model_len: int = 512, max_num_seqs: int = 8) -> None:
        self.up = Hello(epoch=1, max_model_len=max_model_len, num_pages=64, page_size=16, max_num_seqs=max_num_seqs)
        self.live: dict[str, FakeStream] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self.reset()

    def reset(self) -> None:
        self.hello: Hello | None = self.up
        self.lasting: Hello | None = None
        """The value of `limits` while there is no engine."""
        self.stats = EngineStats()
        self.heard: float | None = None
        self.reply: Reply = lambda prompt, sampling: [*b"Hello world", EOS]
        self.submitted: list[FakeStream] = []
        self.aborted: list[str] = []
        self.tokens_per_output = 1
        self.cached_tokens = 0
        self.stop_at = {EOS}
        self.fail_at: int | None = None
        self.invalid: str = ""
        """The error of `fail_at`, if it is the client's; empty: the engine itself fails."""
        self.hold_at: int | None = None
        """Requests wait after this many tokens, until it is None again."""
        self.reason: str | None = None
        self.left = False
        self.refuse: str | None = None

    @property
    def limits(self) -> Hello | None:
        return self.hello or self.lasting

    @property
    def last_message_time(self) -> float:
        return time.monotonic() if self.heard is None else self.heard

    async def turn(self, stream: FakeStream) -> None:
        await asyncio.sleep(0)
        while self.hold_at is not None and stream.position >= self.hold_at and self.reason is None:
            await asyncio.sleep(0.002)
        if self.reason is not None:
            stream.ended = True
            self.live.pop(stream.request_id, None)
            raise EngineError(self.reason)

    def generate(
        self,
        request_id: str,
        token_ids: list[int],
        sampling: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str = "",
        origin: Origin = NO_ORIGIN,
    ) -> FakeStream:
        if self.refuse is not None:
            raise EngineError(self.refuse)
        stream = FakeStream(self, request_id, token_ids, sampling)
        stream.priority, stream.cache_salt = priority, cache_salt  # type: ignore[attr-defined]
        stream.origin = origin  # type: ignore[attr-defined]
        self.submitted.append(stream)
        self.live[request_id] = stream
        return stream

    async def connect(self, epoch: int, timeout: float = 600.0) -> Hello:
        self.hello = self.up
        self.reason = None
        return self.up

    def leave(self) -> None:
        self.left = True

    async def idle(self) -> None:
        pass

    def pause(self, reason: str) -> None:
        self.hello, self.lasting = None, self.hello or self.lasting

    def engine_down(self, reason: str) -> None:
        self.hello = self.lasting = None
        self.reason = reason

    async def close(self) -> None:
        self.engine_down("closed")


class FakeGrammars:
    """Grammars that name the constraint; `check` refuses text with `bad` in it."""

    def from_json_schema(self, schema: dict[str, Any], *, compact: bool = False, param: str) -> str:
        return f"json:{sorted(schema)}{'!' if compact else ''}"

    def from_regex(self, regex: str, *, param: str) -> str:
        return f"regex:{regex}"

    def from_text(self, text: str, *, param: str) -> str:
        return f"text:{text}"

    def from_choices(self, choices: Sequence[str], *, param: str) -> str:
        return f"choices:{','.join(choices)}"

    def any_json_object(self, *, compact: bool = False) -> str:
        return "object!" if compact else "object"

    def for_tools(
        self, tools: list[dict[str, Any]], choice: str | dict[str, Any], *, parallel: bool, answer: str | None
    ) -> str | None:
        made = f"tools:{len(tools)}:{choice if isinstance(choice, str) else choice['function']['name']}:{parallel}"
        return made if answer is None else f"{made}|{answer}"

    def check(self, grammar: str, *, param: str) -> None:
        if "bad" in grammar:
            raise ParameterError(param, "the grammar does not compile")

    def close(self) -> None:
        pass


def model_config() -> ModelConfig:
    return ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=8,
        intermediate_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=VOCAB,
        max_position=512,
        rms_norm_eps=1e-5,
        rope=RopeConfig(),
        tie_word_embeddings=True,
        attention_bias=False,
        eos_token_ids=(EOS,),
        bos_token_id=257,
    )


def served_model(**changes: Any) -> ServedModel:
    tokenizer = byte_tokenizer()
    values: dict[str, Any] = {
        "name": "tiny",
        "config": model_config(),
        "tokenizer": tokenizer,
        "grammars": FakeGrammars(),
        "template": ChatTemplate.of_model(tokenizer),
        "longest_token": 5,
        **changes,
    }
    return ServedModel(**values)


class RunningServer:
    def __init__(self, gateways: Gateways, engine: FakeEngine) -> None:
        self.gateways = gateways
        self.gateway = gateways.first
        self.engine = engine
        self._listener = bind("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.uvicorn = HttpServer(create_app(gateways))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.engine.loop = asyncio.get_running_loop()
        await self.uvicorn.serve(sockets=[self._listener])

    def call(self, function: Callable[[], Any]) -> None:
        """Run a function in the server's loop."""
        assert self.engine.loop is not None
        self.engine.loop.call_soon_threadsafe(function)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.uvicorn.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.uvicorn.should_exit = True
        self._thread.join(10)
        for one in self.gateways:
            one.model.close()


def make_server(
    *,
    engine: FakeEngine | None = None,
    model: ServedModel | None = None,
    engine_config: dict[str, Any] | None = None,
    **gateway_config: Any,
) -> RunningServer:
    config = Config(
        engine=EngineConfig(model="tiny", **(engine_config or {})), gateway=GatewayConfig(port=0, **gateway_config)
    )
    engine = engine or FakeEngine()
    return RunningServer(Gateways([Gateway(config, model or served_model(), engine)]), engine)


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)
