"""The gateway's process from bind to exit: the supervisor's messages, signals, draining."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket

import zmq
from starlette.types import ASGIApp

from gllm.engine.client.engines import RemoteEngines
from gllm.engine.client.stream import EngineError
from gllm.gateway.http.server import HttpServer
from gllm.gateway.shared.gateways import Gateways
from gllm.supervisor.link import SupervisorLink
from gllm.supervisor.ready_line import ready_line
from gllm.wire.messages import Drain, EngineDown, EngineUp, Loading

logger = logging.getLogger(__name__)

RETRY_INTERVAL = 1.0
"""Seconds between attempts to connect to an engine when the process lacks a resource such as file descriptors."""
SHUTTING_DOWN = "the server is shutting down"


class HttpProcess:
    def __init__(self, gateways: Gateways, app: ASGIApp, link: SupervisorLink) -> None:
        self._gateways = gateways
        self._gateway = gateways.first
        """That of the own group: the supervisor's messages are about its engine."""
        self._server = HttpServer(app)
        self._link = link
        self._connecting: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._signals = 0
        self._serving = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        """Serve until drained."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._server.refusals.handle)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        # `gllm gateway` may have blocked SIGTERM until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        await self._link.report("starting")
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._wait_serving())]
        for one in self._gateways:
            if isinstance(one.engine, RemoteEngines):
                tasks.append(asyncio.create_task(self._announce(one.model.name, one.engine)))
        try:
            await self._server.serve(sockets=[listener])
        finally:
            for task in (*tasks, self._connecting, self._draining):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
            for one in self._gateways:
                await one.engine.close()
                one.model.close()

    async def _wait_serving(self) -> None:
        while not self._server.started:
            await asyncio.sleep(0.01)
        self._serving.set()

    async def _announce(self, model: str, engines: RemoteEngines) -> None:
        """Find the engines of a model, and tell the terminal when the first one serves."""
        engines.start()
        await engines.serving()
        await self._serving.wait()
        print(ready_line(self._gateway.config, name=model), flush=True)

    async def _listen(self) -> None:
        """Handle the supervisor's messages.

        If they cannot be read, the process ends, because nothing else announces new engines.
        """
        try:
            async for message in self._link.messages():
                if isinstance(message, EngineUp):
                    self._connect(message.epoch)
                elif isinstance(message, EngineDown):
                    self._engine_down(message)
                    await self._link.report("starting", "waiting for a new engine")
                elif isinstance(message, Loading):
                    self._gateway.loaded = message.progress
                elif isinstance(message, Drain):
                    self.drain(message.timeout)
        except Exception:
            logger.exception("lost the supervisor")
            self._server.should_exit = True

    def _connect(self, epoch: int) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self._connecting = asyncio.create_task(self._connect_to(epoch))

    async def _connect_to(self, epoch: int) -> None:
        """Try until the engine answers, or until a later message of the supervisor replaces this attempt."""
        engine = self._gateway.engine
        assert not isinstance(engine, RemoteEngines), "it has no supervisor, which sends this message"
        self._gateway.down_reason = "waiting for the engine to load the model"
        while True:
            try:
                hello = await engine.connect(epoch)
                break
            except (EngineError, TimeoutError) as error:
                self._gateway.down_reason = str(error) or "the engine did not answer"
                logger.error("no engine", extra={"epoch": epoch, "reason": self._gateway.down_reason})
                return
            except (OSError, zmq.ZMQError) as error:
                # The process lacks a resource that may be free again later, such as file descriptors.
                self._gateway.down_reason = f"cannot connect to the engine: {error}"
                logger.error("no engine yet", extra={"epoch": epoch, "reason": str(error)})
                await asyncio.sleep(RETRY_INTERVAL)
        await self._serving.wait()
        await self._link.report("ready")
        logger.info("engine connected", extra={"epoch": hello.epoch, "max_model_len": hello.max_model_len})

    def _engine_down(self, message: EngineDown) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self._gateway.engine_lost(message.reason, message.recovery_seconds)
        # If no request was lost and no engine follows, the log line of the supervisor is enough.
        level = logging.ERROR if message.recovery_seconds or self._gateway.admission.live else logging.INFO
        logger.log(level, "engine down", extra={"reason": message.reason, "live": self._gateway.admission.live})

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals > 1:
            self._give_up()
            self._server.force_exit = self._server.should_exit = True
            return
        self.drain(self._gateway.config.gateway.drain_seconds)

    def drain(self, timeout: float) -> None:
        """Close the connections as `HttpServer.drain` does, for at most `timeout` seconds, then stop serving."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(timeout))

    async def _drain(self, timeout: float) -> None:
        self._gateways.drain()
        engine = self._gateway.engine
        engine.leave()
        logger.info("draining", extra={"live": self._gateways.live, "timeout": timeout})
        await self._link.report("draining")
        try:
            async with asyncio.timeout(timeout):
                await self._server.drain(self._gateway.config.gateway.drain_delay)
                for one in self._gateways:
                    await one.admission.empty()
                if self._gateway.config.nodes.engine_port:
                    await engine.idle()
        except TimeoutError:
            logger.warning("drain timed out", extra={"live": self._gateways.live})
            self._give_up()
        self._server.should_exit = True

    def _give_up(self) -> None:
        """Let the requests fail that still run."""
        for one in self._gateways:
            one.engine.engine_down(SHUTTING_DOWN)
