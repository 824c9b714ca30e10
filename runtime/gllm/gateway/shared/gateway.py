"""The objects that all requests of one model share: the model, the engine and its health, admission, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gllm.config import Config
from gllm.engine.client.client import EngineClient
from gllm.engine.client.engines import RemoteEngines
from gllm.gateway.protocol.errors import engine_dead
from gllm.gateway.shared.admission import Admission
from gllm.gateway.shared.metric_families import MetricFamilies
from gllm.gateway.shared.metrics import GatewayMetrics
from gllm.gateway.shared.served_model import ServedModel
from gllm.gateway.shared.viewers import Viewers
from gllm.tracing import Tracer
from gllm.wire.messages import Hello

MAX_SILENCE = 5.0
"""The engine sends a message each second. After this many seconds without one it counts as hung."""


class Gateway:
    def __init__(
        self,
        config: Config,
        model: ServedModel,
        engine: EngineClient | RemoteEngines,
        clock: Callable[[], float] = time.monotonic,
        tracer: Tracer | None = None,
        families: MetricFamilies | None = None,
    ) -> None:
        """tracer: None: no traces. families: the metrics of the process, if it has several models."""
        self.config = config
        self.model = model
        self.engine = engine
        self.tracer = tracer
        self.metrics = GatewayMetrics(
            model.name,
            config.engine.max_model_len or model.config.context(),
            engine,
            ttft_target=config.engine.ttft_target,
            tpot_target=config.engine.tpot_target,
            families=families,
        )
        self.admission = Admission(config.gateway, engine, on_reject=self.metrics.rejected)
        self.viewers = Viewers(
            engine,
            {
                "model": model.name,
                "policy": config.engine.policy,
                "pp": config.engine.pp,
                "tp": config.engine.tp,
                "max_num_seqs": config.engine.max_num_seqs,
                "simulated": False,
            },
        )
        self.draining = False
        """Whether new connections should go to another server."""
        self.down_reason = "starting"
        """Why there is no engine, for /health."""
        self.loaded: float | None = None
        """Share of the weights that the workers of the next engine have loaded, 0 to 1; None: not known."""
        self._clock = clock
        self._recovery_deadline = 0.0

    def engine_lost(self, reason: str, recovery_seconds: float) -> None:
        """Record that the engine stopped. Its requests wait `recovery_seconds` for the next engine; 0: they fail."""
        self.down_reason = reason
        self.loaded = None
        self._recovery_deadline = self._clock() + recovery_seconds if recovery_seconds else 0.0
        if recovery_seconds and not isinstance(self.engine, RemoteEngines):
            self.engine.pause(reason)
        else:
            self.engine.engine_down(reason)

    def unhealthy(self) -> str | None:
        """Return why the process should be restarted, None if it is healthy.

        It does not wait for the engine, which may hang. The replacement of an engine is healthy until its deadline.
        A gateway in front of several engines is healthy by itself: a restart would not bring an engine back.
        """
        if isinstance(self.engine, RemoteEngines):
            return None
        if self.engine.hello is None:
            return None if self._clock() < self._recovery_deadline else self._disconnected()
        silence = self._clock() - self.engine.last_message_time
        if silence > MAX_SILENCE:
            return f"the engine has been silent for {silence:.1f} s"
        stalled = self.engine.stats.seconds_since_progress + silence
        if self.engine.stats.seconds_since_progress and stalled > self.config.engine.step_timeout:
            return f"the engine has made no progress for {stalled:.0f} s"
        return None

    @property
    def max_model_len(self) -> int | None:
        return self.engine.limits.max_model_len if self.engine.limits is not None else None

    def limits(self) -> Hello:
        """Return the limits for requests. Raises ApiError 503 if there is no engine and none is expected."""
        if self.engine.limits is None:
            raise engine_dead("no engine is running")
        return self.engine.limits

    async def first_limits(self) -> Hello:
        """Return `limits()`; with --wait-for-engine, wait for them first. Raises ApiError 503."""
        settings = self.config.gateway
        if self.engine.limits is None and isinstance(self.engine, RemoteEngines) and settings.wait_for_engine:
            seconds = settings.engine_timeout
            try:
                await asyncio.wait_for(self.engine.serving(), seconds)
            except TimeoutError:
                raise engine_dead(f"no engine served within {seconds:g} s: {self.engine.problem()}") from None
        return self.limits()

    def not_ready(self, recovering: bool = False) -> str | None:
        """Return why new requests should go to another server, None if they should not.

        recovering: count the gateway as ready while requests wait for the next engine.
        """
        if self.draining:
            return "draining"
        if self.engine.hello is None and not (recovering and self._may_wait()):
            return self._disconnected()
        return self.unhealthy()

    def _may_wait(self) -> bool:
        """Whether requests wait for an engine rather than being refused."""
        if self.engine.limits is None and isinstance(self.engine, RemoteEngines):
            return self.config.gateway.wait_for_engine and self.engine.may_come
        return self.engine.limits is not None

    def idle_seconds(self) -> float | None:
        """Return the time without requests, for those who start and end engines on demand; None: of a group."""
        return self.admission.idle_seconds if isinstance(self.engine, RemoteEngines) else None

    def _disconnected(self) -> str:
        if isinstance(self.engine, RemoteEngines):
            return self.engine.problem()
        return f"the engine is not connected: {self.down_reason}"
