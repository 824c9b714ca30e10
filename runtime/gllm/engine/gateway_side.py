"""The engine's side towards the gateways: requests in, outputs out. No message of a gateway may end the engine."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

import msgspec
import zmq

from gllm.engine.requests import last_output, make_sequence, refusal
from gllm.engine.results import OutputsByClient
from gllm.engine.scheduler import Scheduler
from gllm.models.config import ModelConfig
from gllm.sampling_params import ParameterError
from gllm.wire.messages import (
    Abort,
    Connect,
    EngineStats,
    GatewayToEngine,
    Hello,
    RequestOutput,
    RequestOutputs,
    Submit,
)
from gllm.wire.transport import decoder, encode

logger = logging.getLogger("gllm.engine")


class Gateways:
    """All clients on one ROUTER socket; until `open` they are known, and wait."""

    def __init__(self, socket: zmq.Socket[bytes], model: ModelConfig) -> None:
        self._socket = socket
        self._model = model
        self._scheduler: Scheduler | None = None
        self._hello: Hello | None = None
        self._clients: dict[bytes, None] = {}
        self._outputs: OutputsByClient = {}
        self._decoder = decoder(GatewayToEngine)

    def open(self, scheduler: Scheduler, hello: Hello) -> None:
        """The group serves: greet the clients that came early."""
        self._scheduler = scheduler
        self._hello = hello
        for client in list(self._clients):
            self._send(client, hello)

    def receive(self, client: bytes, payload: bytes) -> None:
        """Handle one message."""
        self._clients[client] = None
        try:
            message = self._decoder.decode(payload)
        except msgspec.DecodeError as error:
            logger.warning("gateway sent what does not decode", extra={"reason": str(error)})
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
                if self._scheduler is not None and self._hello is not None:
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
                return None
        except ParameterError as wrong:
            error = str(wrong)
        except Exception as unexpected:
            logger.exception("submit failed", extra={"request_id": submit.request_id})
            error = f"the engine could not take the request: {unexpected}"
        return self._refuse(client, submit.request_id, error)

    def _refuse(self, client: bytes, request_id: str, reason: str) -> None:
        self.merge({client: [RequestOutput(request_id=request_id, token_ids=[], finish_reason="error", error=reason)]})

    def _refuse_undecodable(self, client: bytes, payload: bytes, reason: str) -> None:
        """A Submit with a bad field still names its request, whose client must not wait for ever."""
        with suppress(msgspec.DecodeError):
            match msgspec.msgpack.decode(payload):
                case ["Submit", str(request_id), *_]:
                    self._refuse(client, request_id, reason)

    def merge(self, outputs: OutputsByClient) -> None:
        """Keep outputs for the next `send_outputs`."""
        for client, entries in outputs.items():
            self._outputs.setdefault(client, []).extend(entries)

    def send_outputs(self) -> None:
        """Send what has come together, one message a client."""
        if not self._outputs:
            return
        outputs, self._outputs = self._outputs, {}
        stats = self._scheduler.stats() if self._scheduler is not None else EngineStats()
        for client, entries in outputs.items():
            self._send(client, RequestOutputs(entries, stats))

    def send_heartbeat(self) -> None:
        """Tell every client that the engine lives, and how it is."""
        if self._scheduler is not None:
            heartbeat = RequestOutputs([], self._scheduler.stats())
            for client in list(self._clients):
                self._send(client, heartbeat)

    def _send(self, client: bytes, message: Hello | RequestOutputs) -> None:
        try:
            self._socket.send_multipart((client, encode(message)), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._forget(client, str(error))

    def _forget(self, client: bytes, reason: str) -> None:
        """The client is gone: nobody will read what its requests produce."""
        self._clients.pop(client, None)
        if self._scheduler is not None:
            aborted = self._scheduler.requests_of(client)
            for request_id in aborted:
                self._scheduler.abort(request_id)
            logger.info("gateway left", extra={"aborted": len(aborted), "reason": reason})
