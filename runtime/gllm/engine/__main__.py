"""Entry point of the engine process: `python -m gllm.engine` with the configuration in the environment."""

from __future__ import annotations

import logging
import signal
import sys

from gllm.config import Config
from gllm.engine.loop import EngineLoop, freeze_gc
from gllm.logs import setup_logging
from gllm.supervisor.link import StatusReporter, die_with_parent
from gllm.supervisor.stacks import show_stacks_on_signal
from gllm.tracing import open_tracer

logger = logging.getLogger("gllm.engine")


def main() -> int:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The supervisor decides when to stop.
    config = Config.from_environment()
    show_stacks_on_signal(config, "engine")
    setup_logging(config, "engine")
    reporter = StatusReporter(config, "engine")
    reporter.report("starting")

    from gllm.models.families import load_model_config

    try:
        model = load_model_config(config.engine.model)
        model.context(config.engine.max_model_len)
    except ValueError as error:
        reporter.report("failed", str(error))
        return 1
    if model.context_note:
        logger.warning("the context is %d tokens: %s", model.context(config.engine.max_model_len), model.context_note)
    tracer = open_tracer(config.gateway.otlp_endpoint, "engine")
    loop = EngineLoop(config, model, report=reporter.report, tracer=tracer)
    freeze_gc()
    signal.signal(signal.SIGTERM, lambda signum, frame: loop.stop())
    status = loop.run()
    if tracer is not None and status == 0:  # After a failure the next engine must not wait for a collector.
        tracer.close()
    reporter.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
