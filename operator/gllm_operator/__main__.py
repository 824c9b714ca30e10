"""`gllm-operator`, or `python -m gllm_operator`."""

from __future__ import annotations

import asyncio
import sys

from gllm_operator.process.settings import read_settings


def main() -> None:
    settings = read_settings()

    from gllm_operator.process.logs import setup_logging
    from gllm_operator.process.operator_process import run

    setup_logging(settings.log_level)
    try:
        sys.exit(asyncio.run(run(settings)))
    except ValueError as error:
        sys.exit(f"gllm-operator: error: {error}")


if __name__ == "__main__":
    main()
