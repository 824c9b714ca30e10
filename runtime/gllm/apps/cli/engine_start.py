"""Shared by the offline commands: the start of an engine with its progress on stderr, and errors in one line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from gllm.config import Config

if TYPE_CHECKING:
    from gllm.apps.offline.llm import LLM

INTERRUPTED = 130
"""Exit status after Ctrl-C, by the shells' convention: 128 + SIGINT."""


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn errors that a user can act on into one line and exit status 1, and Ctrl-C into exit status 130."""
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        print(f"gllm: error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print(file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@contextlib.contextmanager
def offline_llm(config: Config) -> Iterator[LLM]:
    """Start an engine for this command and print the stages of its start on stderr."""
    from gllm.apps.offline.llm import LLM
    from gllm.supervisor.progress import ProgressPrinter

    printer = ProgressPrinter(sys.stderr)
    try:
        llm = LLM.from_config(config, on_status=printer.status)
    finally:
        printer.clear()
    with llm:
        yield llm
