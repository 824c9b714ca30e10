"""`from gllm import LLM`: the engine inside a Python program, without HTTP.

with LLM("path/to/model") as llm:
    for completion in llm.generate(["Once upon a time", "The sky is"], SamplingParams(max_tokens=32)):
        print(completion.text)
"""

from __future__ import annotations

import itertools
import queue
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gllm.apps.offline.completion import Completion, CompletionOutput, complete
from gllm.apps.offline.engine import ClientFactory, GroupFactory, OfflineEngine, real_group
from gllm.apps.offline.llm_options import make_config
from gllm.apps.offline.prompts import Message, Prompt, PromptEncoder, as_prompts
from gllm.apps.request_progress import RequestProgress
from gllm.config import Config, ModelSource
from gllm.engine.client.client import EngineClient
from gllm.models.families import load_model_config
from gllm.sampling_params import DEFAULTED_FIELDS, ParameterError, SamplingParams
from gllm.wire.messages import ProcessStatus

if TYPE_CHECKING:
    from gllm.text.tokenizer import Tokenizer

__all__ = ["LLM", "Completion", "CompletionOutput"]

Key = TypeVar("Key")


class LLM:
    """A model that is ready to generate. It takes seconds to start: reuse it, and `close` it (or use `with`).

    Args:
        model: a Hugging Face folder, a GGUF file, or a name on the hub ("Qwen/Qwen3-0.6B", "org/name:Q4_K_M"), which is
            downloaded unless the Hugging Face cache has it.
        revision: branch, tag or commit of a model on the hub; "": main.
        download_dir: the cache for models of the hub; "": Hugging Face's own.
        chat_template: path of a Jinja file that replaces the model's own.
        allow_special_tokens: special tokens spelled in a conversation's messages count; otherwise they are text.
        generation_config: "auto" takes sampling defaults from the model's generation_config.json, "none" OpenAI's.
        on_status: called from another thread with each report of a starting process.
        engine_options: fields of `gllm.config.EngineConfig`, for example dtype, device, max_model_len, max_num_seqs.

    Raises:
        TypeError: an option that does not exist.
        ValueError: a wrong value of an option, or a model that cannot be served.
        RuntimeError: the engine did not start; the message says why. Every method raises it after the engine died.

    Threads may share an LLM.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str = "",
        download_dir: str = "",
        chat_template: str = "",
        allow_special_tokens: bool = False,
        generation_config: str = "auto",
        log_level: str = "warning",
        on_status: Callable[[ProcessStatus], None] = lambda status: None,
        **engine_options: Any,
    ) -> None:
        source = ModelSource(revision=revision, download_dir=download_dir)
        gateway_options = {
            "chat_template": chat_template,
            "allow_special_tokens": allow_special_tokens,
            "generation_config": generation_config,
        }
        config = make_config(model, source, engine_options, gateway_options, log_level)
        self._start(config, on_status, real_group, EngineClient)

    @classmethod
    def from_config(
        cls,
        config: Config,
        *,
        on_status: Callable[[ProcessStatus], None] = lambda status: None,
        make_group: GroupFactory = real_group,
        make_client: ClientFactory = EngineClient,
    ) -> LLM:
        """Make an LLM from a whole `Config`, as the command line does. Tests replace the factories."""
        llm = cls.__new__(cls)
        llm._start(config, on_status, make_group, make_client)
        return llm

    def _start(
        self,
        config: Config,
        on_status: Callable[[ProcessStatus], None],
        make_group: GroupFactory,
        make_client: ClientFactory,
    ) -> None:
        self.config = config
        self.model_config = load_model_config(config.engine.model)
        self._request_ids = (f"offline-{number}" for number in itertools.count())
        self.engine = OfflineEngine(config, on_status=on_status, make_group=make_group, make_client=make_client)
        self.max_model_len = self.engine.hello.max_model_len
        """Longest prompt + output, in tokens."""
        self._encoder = PromptEncoder(config, vocab_size=self.model_config.vocab_size, max_model_len=self.max_model_len)
        # Also runs when the interpreter exits: a program that forgets `close` leaves no socket folder.
        self._finalizer = weakref.finalize(self, self.engine.close)

    # --- generation ------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool = False,
    ) -> list[Completion]:
        """Complete one prompt or many, given as text or token ids. Results are in the order of the prompts.

        Args:
            sampling: for all prompts, or one for each; None: the model's defaults with max_tokens 16.
            progress: show a bar on stderr, if it is a terminal.

        If the engine fails a request, its `Completion.error` is set; the others are unaffected.
        Raises ParameterError (a ValueError) for a prompt or parameter that cannot be served, before any work.
        """
        return self._generate_all(as_prompts(prompts), sampling, self.default_sampling(max_tokens=16), progress)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool = False,
    ) -> list[Completion]:
        """Answer one conversation or many, each a list of {"role": ..., "content": ...}.

        sampling: None means the model's defaults, with answers as long as the context allows.
        """
        if not messages:
            raise ParameterError("messages", "messages is empty")
        several = [messages] if isinstance(messages[0], dict) else messages
        conversations = cast("list[list[Message]]", [list(conversation) for conversation in several])
        return self._generate_all(list[Prompt](conversations), sampling, self.default_sampling(), progress)

    def stream(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Iterator[str]:
        """Yield the text of one answer, piece by piece. Leaving the loop early stops the generation.

        prompt: text, token ids or a conversation. Raises RuntimeError if the engine fails.
        """
        sampling = sampling or self.default_sampling()
        if sampling.n != 1:
            raise ParameterError("n", "a stream has one answer: n must be 1")
        text, token_ids = self._encoder.encode(prompt, sampling)
        return self._stream(Completion(text, token_ids, []), sampling)

    def generate_unordered(
        self, requests: Iterable[tuple[Key, Prompt, SamplingParams]]
    ) -> Iterator[tuple[Key, Completion | Exception]]:
        """Complete the requests of an iterable of any length; yield (key, completion) when each is done.

        Takes as many requests at a time as keep the engine busy. Yields the ParameterError of a request that cannot be
        served. Raises RuntimeError if the engine fails.
        """
        done: queue.SimpleQueue[tuple[Key, Completion, Future[None]]] = queue.SimpleQueue()
        running: set[Future[None]] = set()
        # Twice as many requests as can run, so that the engine always has the next requests in its queue.
        most = 2 * self.engine.hello.max_num_seqs

        def put(key: Key, completion: Completion, future: Future[None]) -> None:
            done.put((key, completion, future))

        def take() -> tuple[Key, Completion]:
            key, completion, future = done.get()
            running.discard(future)
            self._check(future)
            return key, completion

        try:
            for key, prompt, sampling in requests:
                try:
                    text, token_ids = self._encoder.encode(prompt, sampling)
                except ValueError as error:
                    yield key, error
                    continue
                completion = Completion(text, token_ids, [])
                future = self._submit(completion, sampling)
                running.add(future)
                future.add_done_callback(partial(put, key, completion))
                while len(running) >= most:
                    yield take()
            while running:
                yield take()
        finally:
            for future in running:
                future.cancel()

    def default_sampling(self, **changes: Any) -> SamplingParams:
        """Return the model's sampling defaults with `changes`. The context limits the answer."""
        defaults: dict[str, Any] = {"max_tokens": None}
        if self.config.gateway.generation_config == "auto":
            known = self.model_config.generation_defaults
            defaults |= {name: known[name] for name in DEFAULTED_FIELDS if known.get(name) is not None}
        return SamplingParams(**{**defaults, **changes})

    def chat_token_ids(self, messages: list[Message]) -> list[int]:
        """Return the token ids of a conversation, by the model's chat template."""
        return self._encoder.chat_token_ids(messages)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._encoder.tokenizer

    # --- the end -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End every process. Safe to call twice."""
        self._finalizer()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- inside ----------------------------------------------------------------------------------------------

    def _generate_all(
        self,
        prompts: list[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None,
        default: SamplingParams,
        progress: bool,
    ) -> list[Completion]:
        if sampling is None or isinstance(sampling, SamplingParams):
            samplings = [sampling or default] * len(prompts)
        else:
            samplings = list(sampling)
            if len(samplings) != len(prompts):
                raise ValueError(
                    f"sampling has {len(samplings)} entries for {len(prompts)} prompts: give one, or one each"
                )
        # Encode all prompts first, to refuse a wrong one before any work is done.
        encoded = [self._encoder.encode(*pair) for pair in zip(prompts, samplings, strict=True)]
        results: dict[int, Completion] = {}
        requests = ((index, ids, samplings[index]) for index, (_, ids) in enumerate(encoded))
        with RequestProgress(len(prompts), visible=progress) as shown:
            for index, completion in self.generate_unordered(requests):
                if isinstance(completion, Exception):
                    raise completion
                completion.prompt = encoded[index][0]
                results[index] = completion
                tokens = sum(len(output.token_ids) for output in completion.outputs)
                shown.update(tokens, failed=bool(completion.error))
        return [results[index] for index in range(len(prompts))]

    def _submit(
        self, completion: Completion, sampling: SamplingParams, on_text: Callable[[str], None] = lambda text: None
    ) -> Future[None]:
        work = complete(
            completion,
            sampling,
            self.engine.client,
            self.tokenizer,
            eos_token_ids=self.model_config.eos_token_ids,
            request_ids=self._request_ids,
            on_text=on_text,
        )
        return self.engine.submit(work)

    def _stream(self, completion: Completion, sampling: SamplingParams) -> Iterator[str]:
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        future = self._submit(completion, sampling, pieces.put)
        future.add_done_callback(lambda future: pieces.put(None))
        try:
            while (piece := pieces.get()) is not None:
                yield piece
            self._check(future)
            if completion.error:
                raise RuntimeError(completion.error)
        finally:
            future.cancel()

    def _check(self, future: Future[None]) -> None:
        """Raise the error of the work, if any, in words for a user of `LLM`."""
        from gllm.engine.client.stream import EngineError

        try:
            future.result()
        except CancelledError:
            raise RuntimeError(self.engine.failure or "the generation was cancelled") from None
        except EngineError as error:
            raise RuntimeError(f"the engine has ended: {self.engine.failure or error}") from None
