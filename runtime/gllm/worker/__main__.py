"""Entry point of a worker process: `python -m gllm.worker` with the configuration in the environment."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time

from gllm.config import Config
from gllm.logs import setup_logging
from gllm.supervisor.link import StatusReporter, die_with_parent
from gllm.supervisor.stacks import show_stacks_on_signal
from gllm.wire.messages import WorkerFailed

logger = logging.getLogger("gllm.worker")

_CAUSE_SECONDS = 1.0
"""Time in which the supervisor notices the loss of another worker or node."""


def main() -> int:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides when to stop
    config = Config.from_environment()
    rank = int(os.environ.get("RANK", "0"))
    role = f"worker-{rank}"
    show_stacks_on_signal(config, role)
    setup_logging(config, role)
    reporter = StatusReporter(config, role)
    reporter.report("starting")

    from gllm.models.families import load_model_config
    from gllm.parallel.exchange import ExchangeFailed
    from gllm.parallel.world import leave_world
    from gllm.worker.build import WorkerBuilder
    from gllm.worker.loop import EngineLink, serve

    try:
        model_config = load_model_config(config.engine.model)
        builder = WorkerBuilder(
            config.engine, model_config, lambda done: reporter.report("loading", progress=done), rank
        )
        num_pages = builder.capacity()
    except ValueError as error:
        # Errors that a user can fix are reported in one line; all others keep their traceback.
        reporter.report("failed", detail=str(error))
        return 1
    platform = builder.platform
    logger.info(
        "model loaded",
        extra={
            "device": str(platform.device),
            "dtype": str(platform.dtype).removeprefix("torch."),
            "attention": platform.backend,
            "weights_mib": builder.model.weight_bytes // 2**20,
            "kv_pages": num_pages,
        },
    )
    link = EngineLink(config, rank)
    try:
        serve(link, num_pages, builder.runner)
    except Exception as error:
        # If another worker has died, this is no cause but a consequence, and its traceback says nothing. The supervisor
        # then ends this process while it sleeps, and reports the cause.
        consequence = isinstance(error, ExchangeFailed)
        if consequence:
            time.sleep(_CAUSE_SECONDS)
        logger.error("worker failed: %s", error, exc_info=not consequence)
        link.send(WorkerFailed(rank, f"{type(error).__name__}: {error}"))
        return 1
    finally:
        link.close()
        reporter.close()
        leave_world()
    return 0


if __name__ == "__main__":
    sys.exit(main())
