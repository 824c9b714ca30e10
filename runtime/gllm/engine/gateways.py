"""The engine's link to its gateways: requests in, outputs out. No message of a gateway may end the engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from contextlib import suppress

import msgspec
import zmq

from gllm.engine.kv_pages import prompt_root
from gllm.engine.results import OutputsByClient
from gllm.engine.scheduler import Scheduler
from gllm.engine.sequence import Sequence
from gllm.models.config import ModelConfig
from gllm.sampling_params import ParameterError
from gllm.wire.messages import (
    Abort,
    CachedPages,
    Connect,
    EngineStats,
    GatewayToEngine,
    Hello,
    Leave,
    RequestOutput,
    RequestOutputs,
    Submit,
)
from gllm.wire.pipeline_events import PipelineEvents, Watch
from gllm.wire.transport import decoder, encode

logger = logging.getLogger("gllm.engine")


class Gateways:
    """The clients of some ROUTER sockets. Clients that connect before `open` wait for it.

    A client's key is the number of its socket, in one byte, and its identity there: two sockets may know equal ones.
    """

    def __init__(
        self,
        sockets: Seq[zmq.Socket[bytes]],
        model: ModelConfig,
        *,
        on_added: Callable[[Sequence], None] = lambda seq: None,
    ) -> None:
        """on_added is called with each request that the scheduler has taken."""
        self._sockets = sockets
        self._on_added = on_added
        self._model = model
        self._scheduler: Scheduler | None = None
        self._hello: Hello | None = None
        self._clients: dict[bytes, None] = {}
        self._followers: dict[bytes, None] = {}
        """The clients on other machines; they know the prefix cache."""
        self.viewers: dict[bytes, float] = {}
        """Client -> time.monotonic() until which it wants events of the pipeline."""
        self._outputs: OutputsByClient = {}
        self._decoder = decoder(GatewayToEngine)

    def open(self, scheduler: Scheduler, hello: Hello) -> None:
        """Begin to serve: greet the clients that have connected."""
        self._scheduler = scheduler
        self._hello = hello
        for client in list(self._clients):
            self._greet(client)

    def _greet(self, client: bytes) -> None:
        """Send the client what it needs to begin; one on another machine chooses engines by their cached pages."""
        if self._scheduler is None or self._hello is None:
            return
        self._send(client, self._hello)
        if client[0] and client not in self._followers:
            self._send_pages()
            self._followers[client] = None
            self._send(client, CachedPages(self._scheduler.pool.cached_digests(), [], whole=True))

    def _send_pages(self) -> None:
        """Send the changes of the prefix cache to the gateways of other machines."""
        if self._scheduler is None or not self._followers:
            return
        added, removed = self._scheduler.pool.take_changes()
        if added or removed:
            for client in list(self._followers):
                self._send(client, CachedPages(added, removed))

    def receive(self, socket: int, identity: bytes, payload: bytes) -> None:
        """Handle one message. socket: its index in `sockets`."""
        client = bytes((socket,)) + identity
        self._clients[client] = None
        try:
            message = self._decoder.decode(payload)
        except msgspec.DecodeError as error:
            logger.warning("gateway sent a message that does not decode", extra={"reason": str(error)})
            self._refuse_undecodable(client, payload, str(error))
            return
        match message:
            case Submit():
                self._submit(client, message)
            case Abort(request_ids=request_ids):
                for request_id in request_ids:
                    if self._scheduler is not None and (output := self._scheduler.abort(request_id, client)):
                        self.merge({client: [output]})
            case Connect():
                self._greet(client)
            case Leave():
                self._leave()
            case Watch(seconds=seconds):
                self.viewers[client] = time.monotonic() + seconds

    def _leave(self) -> None:
        """Tell all clients that the group will end; they send no new requests."""
        if self._hello is not None and not self._hello.leaving:
            self._hello = msgspec.structs.replace(self._hello, leaving=True)
            for client in list(self._clients):
                self._send(client, self._hello)

    def _submit(self, client: bytes, submit: Submit) -> None:
        scheduler = self._scheduler
        if scheduler is None:
            return self._refuse(client, submit.request_id, "the engine is still starting")
        try:
            error = refusal(submit, vocab_size=self._model.vocab_size, max_model_len=scheduler.max_model_len)
            if error is None and submit.request_id in scheduler:
                error = f"a request with the id {submit.request_id!r} is already running"
            if error is None:
                seq = make_sequence(
                    submit, self._model, max_model_len=scheduler.max_model_len, client=client, now=time.monotonic()
                )
                if (last := last_output(seq)) is not None:
                    self.merge({client: [last]})
                else:
                    scheduler.add(seq)
                    self._on_added(seq)
                logger.debug("request added", extra={**names_of(submit), "tokens": len(submit.token_ids)})
                return None
        except ParameterError as wrong:
            error = str(wrong)
        except Exception as unexpected:
            logger.exception("submit failed", extra=names_of(submit))
            error = f"the engine could not take the request: {unexpected}"
        logger.info("request refused", extra={**names_of(submit), "reason": error})
        return self._refuse(client, submit.request_id, error)

    def _refuse(self, client: bytes, request_id: str, reason: str) -> None:
        self.merge({client: [RequestOutput(request_id=request_id, token_ids=[], finish_reason="error", error=reason)]})

    def _refuse_undecodable(self, client: bytes, payload: bytes, reason: str) -> None:
        """Answer a Submit with an invalid field: it still names its request, and the client waits for an answer."""
        with suppress(msgspec.DecodeError):
            match msgspec.msgpack.decode(payload):
                case ["Submit", str(request_id), *_]:
                    self._refuse(client, request_id, reason)

    def merge(self, outputs: OutputsByClient) -> None:
        """Add outputs to the next `send_outputs`."""
        for client, entries in outputs.items():
            self._outputs.setdefault(client, []).extend(entries)

    def send_outputs(self) -> None:
        """Send the collected outputs, one message for each client."""
        self._send_pages()
        if not self._outputs:
            return
        outputs, self._outputs = self._outputs, {}
        stats = self._scheduler.stats() if self._scheduler is not None else EngineStats()
        for client, entries in outputs.items():
            self._send(client, RequestOutputs(entries, stats))

    def send_heartbeat(self) -> None:
        """Send the engine's stats to all clients."""
        if self._scheduler is not None:
            heartbeat = RequestOutputs([], self._scheduler.stats())
            for client in list(self._clients):
                self._send(client, heartbeat)

    def has_viewers(self, now: float) -> bool:
        """Forget the clients that have not asked for events again in time, and return whether others are left."""
        self.viewers = {client: until for client, until in self.viewers.items() if until > now}
        return bool(self.viewers)

    def send_events(self, events: PipelineEvents) -> None:
        """Send events of the pipeline to the clients that want them."""
        for client in list(self.viewers):
            self._send(client, events)

    def _send(self, client: bytes, message: Hello | RequestOutputs | CachedPages | PipelineEvents) -> None:
        try:
            self._sockets[client[0]].send_multipart((client[1:], encode(message)), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._forget(client, str(error))

    def _forget(self, client: bytes, reason: str) -> None:
        """Abort the requests of a client that has left."""
        self._clients.pop(client, None)
        self._followers.pop(client, None)
        self.viewers.pop(client, None)
        if self._scheduler is not None:
            if not self._followers:
                self._scheduler.pool.ignore_changes()
            aborted = self._scheduler.requests_of(client)
            for request_id in aborted:
                self._scheduler.abort(request_id)
            logger.info("gateway left", extra={"aborted": len(aborted), "reason": reason})


def names_of(submit: Submit) -> dict[str, str]:
    """Return what log lines say of a request."""
    return {"request_id": submit.origin.http_id, "choice": submit.request_id}


def refusal(submit: Submit, *, vocab_size: int, max_model_len: int) -> str | None:
    """Return why this request cannot be served, in words for its client; None if it can."""
    length = len(submit.token_ids) - submit.num_generated
    if length <= 0 or submit.num_generated < 0:
        return "the prompt is empty: give at least one token"
    if submit.sampling.seed is None:
        return "the request has no seed: its client must draw one"
    if length > max_model_len:
        return f"the prompt has {length} tokens, and the model's context is {max_model_len}: shorten the prompt"
    if length == max_model_len and submit.sampling.max_tokens != 0:
        return (
            f"the prompt has {length} tokens and fills the model's context of {max_model_len}: "
            "shorten it to leave room for the answer"
        )
    if min(submit.token_ids) < 0 or max(submit.token_ids) >= vocab_size:
        return f"the prompt has a token id outside the model's vocabulary of {vocab_size}"
    for field, token_ids in (
        ("stop_token_ids", submit.sampling.stop_token_ids),
        ("logit_bias", submit.sampling.logit_bias),
        ("allowed_token_ids", submit.sampling.allowed_token_ids),
        ("logprob_token_ids", submit.sampling.logprob_token_ids),
        ("bad_word_ids", [token for run in submit.sampling.bad_word_ids for token in run]),
    ):
        if token_ids and max(token_ids) >= vocab_size:
            return f"{field} has a token id outside the model's vocabulary of {vocab_size}"
    return None


def make_sequence(submit: Submit, model: ModelConfig, *, max_model_len: int, client: bytes, now: float) -> Sequence:
    """Make the sequence of a request that `refusal` accepts.

    Its stop tokens include the model's EOS tokens, so that the worker can mask them all before min_tokens. Raises
    ParameterError if there are too many.
    """
    sampling = submit.sampling
    stop_token_ids = sampling.stop_token_ids
    if not sampling.ignore_eos:
        # Some configs name EOS tokens beyond the vocabulary.
        eos = (token for token in model.eos_token_ids if token < model.vocab_size)
        stop_token_ids = tuple(dict.fromkeys((*eos, *stop_token_ids)))
    wire = msgspec.structs.replace(sampling, stop_token_ids=stop_token_ids)
    seq = Sequence(
        submit.request_id,
        submit.token_ids,
        wire,
        max_model_len=max_model_len,
        num_generated=submit.num_generated,
        priority=submit.priority,
        client=client,
        arrival_time=now,
        origin=submit.origin,
    )
    switch = model.rope.switches_at
    seq.root = prompt_root(submit.cache_salt, seq.num_prompt, switch)
    if switch is not None and seq.num_prompt > switch:
        seq.rope_start = max_model_len
    return seq


def last_output(seq: Sequence) -> RequestOutput | None:
    """Return the last output of a resubmitted request that is complete already, else None.

    It has its stop token, or all tokens that this engine's context allows.
    """
    generated = len(seq.tokens) - seq.num_prompt
    if generated and seq.tokens[-1] in seq.stop_ids and len(seq.tokens) >= seq.min_length:
        return RequestOutput(
            request_id=seq.request_id, token_ids=[], finish_reason="stop", stop_token_id=seq.tokens[-1]
        )
    if generated and len(seq.tokens) >= seq.max_length:
        return RequestOutput(request_id=seq.request_id, token_ids=[], finish_reason="length")
    return None
