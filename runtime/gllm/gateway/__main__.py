"""`python -m gllm.gateway`: the HTTP process of a process group, started by the supervisor."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from gllm.checkpoint.model_digest import digest_model
from gllm.config import Config
from gllm.engine.client.client import EngineClient
from gllm.engine.client.engines import RemoteEngines
from gllm.gateway.http.connections import raise_descriptor_limit
from gllm.gateway.http.server import bind
from gllm.gateway.http_process import HttpProcess
from gllm.gateway.routes.app import create_app
from gllm.gateway.shared.gateway import Gateway
from gllm.gateway.shared.gateways import Gateways
from gllm.gateway.shared.metric_families import MetricFamilies
from gllm.gateway.shared.served_model import ServedModel, load_served_model
from gllm.logs import setup_logging
from gllm.supervisor.link import SupervisorLink, die_with_parent
from gllm.supervisor.stacks import show_stacks_on_signal
from gllm.tracing import Tracer, open_tracer
from gllm.wire.curve import keys_of_group, read_keys

logger = logging.getLogger("gllm.gateway")


def engine_client(config: Config, model: ServedModel) -> EngineClient | RemoteEngines:
    """Return the client of the group's engine, or of engines on other machines. Raises ValueError."""
    settings = config.gateway
    if not settings.engines:
        return EngineClient(config)
    digest = digest_model(config.engine.model, weights=False).config
    return RemoteEngines(
        settings.engines,
        read_keys(settings.keys_file) if settings.keys_file else keys_of_group(),
        model=digest,
        wait_seconds=settings.engine_timeout,
        routing=settings.routing,
        long_rope_from=model.config.rope.switches_at,
    )


def make_gateways(config: Config, tracer: Tracer | None) -> Gateways:
    """Return the model of the config, and those of `config.others`. Raises OSError or ValueError."""
    families = MetricFamilies()
    made = []
    for own in (config, *config.others):
        model = load_served_model(own)
        made.append(Gateway(own, model, engine_client(own, model), tracer=tracer, families=families))
    return Gateways(made)


async def serve(config: Config) -> int:
    """Return the exit status: 0 after a drain, 1 when it cannot start."""
    link = SupervisorLink(config, "gateway")
    try:
        try:
            listener = bind(config.gateway.host, config.gateway.port)
            tracer = open_tracer(config.gateway.otlp_endpoint, "gateway")
            gateways = make_gateways(config, tracer)
        except (OSError, ValueError) as error:
            if not config.run_dir:  # otherwise the supervisor prints the reason
                logger.error(str(error))
            await link.report("failed", str(error))
            return 1
        try:
            await HttpProcess(gateways, create_app(gateways), link).run(listener)
        finally:
            if tracer is not None:
                tracer.close()
        return 0
    finally:
        link.close()


def main() -> None:
    config = Config.from_environment()
    if config.run_dir:  # `gllm gateway` has no supervisor.
        die_with_parent()
    raise_descriptor_limit()
    # text_threads.py chooses the thread of each text and its priority; the library must not start threads of its own.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    show_stacks_on_signal(config, "gateway")
    setup_logging(config, "gateway")
    sys.exit(asyncio.run(serve(config)))


if __name__ == "__main__":
    main()
