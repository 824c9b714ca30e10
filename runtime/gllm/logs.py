"""Logs of all processes: one line per event on stderr, `HH:MM:SS.mmm level role message key=value`."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar

from gllm.config import Config

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The X-Request-Id of the request that the current task serves: all its log lines have it as `request_id`."""
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class KeyValueFormatter(logging.Formatter):
    """Renders `logger.info("loaded", extra={"seconds": 1.2})` as `... info engine loaded seconds=1.2`.

    Control characters are escaped, so that text from a request cannot forge a second line.
    """

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = record.levelname.lower()
        parts = [f"{clock}.{int(record.msecs):03d}", level, self._role, _one_line(record.getMessage())]
        parts += [f"{key}={_value(value)}" for key, value in vars(record).items() if key not in _STANDARD_ATTRIBUTES]
        if (request_id := REQUEST_ID.get()) and not hasattr(record, "request_id"):
            parts.append(f"request_id={_value(request_id)}")
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def setup_logging(config: Config, role: str) -> None:
    """Log to stderr from `config.log_level` on; libraries log only warnings and errors."""
    level = getattr(logging, config.log_level.upper())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter(role))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("gllm").setLevel(level)
    logging.captureWarnings(True)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if text and all(character.isprintable() and character not in ' "=' for character in text):
        return text
    return json.dumps(text)


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in text)
