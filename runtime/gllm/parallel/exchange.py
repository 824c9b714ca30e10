"""One error for failed communication between ranks: each backend of torch raises its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ExchangeFailed(RuntimeError):
    """Communication with another rank failed. The usual cause is that the other rank has died."""


def exchange(transfer: Callable[P, T]) -> Callable[P, T]:
    """Decorator of functions that call torch.distributed: a RuntimeError becomes ExchangeFailed."""

    @functools.wraps(transfer)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return transfer(*args, **kwargs)
        except RuntimeError as error:
            raise ExchangeFailed(f"an exchange with another worker failed: {error}") from error

    return wrapped
