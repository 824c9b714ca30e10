"""A fake engine in this process: bytes are tokens, and answers repeat the prompt in upper case."""

import asyncio
from collections.abc import AsyncIterator

from gllm.apps.offline.llm import LLM
from gllm.config import Config, EngineConfig, GatewayConfig
from gllm.engine.client.stream import EngineError
from gllm.models.config import ModelConfig, RopeConfig
from gllm.sampling_params import SamplingParams
from gllm.supervisor.group_interface import GroupError
from gllm.wire.messages import EngineDown, Hello, RequestOutput, TokenLogprob

EOS = 256
MODEL = ModelConfig(
    architecture="FakeForCausalLM",
    hidden_size=8,
    intermediate_size=8,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=257,
    max_position=128,
    rms_norm_eps=1e-5,
    rope=RopeConfig(),
    tie_word_embeddings=True,
    attention_bias=False,
    generation_defaults={"temperature": 0.5, "top_p": None},
)


class ByteTokenizer:
    """A token for each byte, and EOS."""

    token_pieces = [bytes([byte]) for byte in range(256)] + [b"</s>"]
    special_token_ids = frozenset({EOS})
    strip_leading_space = False
    vocab_size = 257

    def encode(self, text: str, add_special_tokens: bool = True, *, max_tokens: int | None = None) -> list[int]:
        return list(text.encode())

    def token_text(self, token: int) -> str:
        return self.token_pieces[token].decode("utf-8", "replace")


class RoleTemplate:
    def render(self, messages: list[dict], **kwargs) -> str:
        return "".join(f"{message['role']}:{message['content']}\n" for message in messages)


class FakeGroup:
    def __init__(self, config: Config, on_event) -> None:
        self.config = config
        self.on_event = on_event
        self.stopped = False
        self.refuse = ""

    async def start(self) -> None:
        pass

    async def wait_ready(self) -> None:
        if self.refuse:
            raise GroupError(self.refuse)

    async def stop(self, timeout: float = 5.0) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.stopped = True

    def die(self, reason: str) -> None:
        self.on_event(EngineDown(0, reason))


class FakeClient:
    """Answers a prompt with itself in upper case, a token a step, then EOS.

    A prompt that begins with `!hang` never ends, with `!fail` ends in an error.
    """

    def __init__(self, config: Config, max_num_seqs: int = 2, max_model_len: int = 64) -> None:
        self._hello = Hello(
            epoch=0, max_model_len=max_model_len, num_pages=100, page_size=16, max_num_seqs=max_num_seqs
        )
        self.submitted: list[tuple[str, SamplingParams]] = []
        self.live: set[str] = set()
        self.most_live = 0
        self.left: list[str] = []
        self.paused: list[str] = []
        self.epochs: list[int] = []
        self.down: asyncio.Event | None = None
        self.reason = ""

    async def connect(self, epoch: int, timeout: float = 600.0) -> Hello:
        self.epochs.append(epoch)
        if self.down is None:
            self.down = asyncio.Event()
        return self._hello

    def generate(
        self, request_id: str, token_ids: list[int], sampling: SamplingParams, **more
    ) -> AsyncIterator[RequestOutput]:
        self.submitted.append((request_id, sampling))
        self.live.add(request_id)
        self.most_live = max(self.most_live, len(self.live))
        return self._answer(request_id, bytes(token_ids), sampling)

    async def _answer(self, request_id: str, prompt: bytes, sampling: SamplingParams) -> AsyncIterator[RequestOutput]:
        finished = False
        try:
            if sampling.max_tokens == 0:
                finished = True
                yield RequestOutput(request_id=request_id, token_ids=[], finish_reason="length")
                return
            if prompt.startswith(b"!fail"):
                finished = True
                yield RequestOutput(
                    request_id=request_id, token_ids=[], finish_reason="error", error="the sampler choked"
                )
                return
            answer = [*prompt.upper(), EOS]
            for position, token in enumerate(answer, start=1):
                await asyncio.sleep(0)
                if self.down.is_set():
                    raise EngineError(self.reason)
                if prompt.startswith(b"!hang") and position == 3:
                    await self.down.wait()
                    raise EngineError(self.reason)
                stop = token if token == EOS else None
                reason = "stop" if stop else "length" if position == sampling.max_tokens else None
                logprobs = (
                    [TokenLogprob(token_id=token, logprob=-0.5, rank=1, top=[(token, -0.5)])]
                    if sampling.logprobs is not None
                    else None
                )
                finished = reason is not None
                yield RequestOutput(
                    request_id=request_id,
                    token_ids=[token],
                    finish_reason=reason,
                    stop_token_id=stop,
                    logprobs=logprobs,
                )
                if reason:
                    return
        finally:
            self.live.discard(request_id)
            if not finished:
                self.left.append(request_id)

    def pause(self, reason: str) -> None:
        self.paused.append(reason)

    def engine_down(self, reason: str) -> None:
        self.reason = reason
        if self.down is not None:
            self.down.set()

    async def close(self) -> None:
        pass


class Fakes:
    """The parts of one fake engine, which tests inspect and break."""

    group: FakeGroup
    client: FakeClient

    def __init__(self) -> None:
        self.refuse = ""

    def make_group(self, config: Config, on_event) -> FakeGroup:
        self.group = FakeGroup(config, on_event)
        self.group.refuse = self.refuse
        return self.group

    def make_client(self, config: Config) -> FakeClient:
        self.client = FakeClient(config)
        return self.client

    def llm(self) -> LLM:
        """`gllm.apps.offline.llm.load_model_config` must be patched to give MODEL."""
        config = Config(engine=EngineConfig(model="fake"), gateway=GatewayConfig(served_model_name="fake"))
        llm = LLM.from_config(config, make_group=self.make_group, make_client=self.make_client)
        vars(llm._encoder)["tokenizer"] = ByteTokenizer()
        vars(llm._encoder)["chat_template"] = RoleTemplate()
        return llm
