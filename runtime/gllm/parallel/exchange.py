"""What goes wrong between ranks: torch tells it in as many ways as it has backends, a worker in one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ExchangeFailed(RuntimeError):
    """Tensors did not get from rank to rank. Nearly always a rank died, and one that waits for it learns it so."""


def exchange(transfer: Callable[P, T]) -> Callable[P, T]:
    """Decorate what calls torch.distributed: its errors come out as ExchangeFailed."""

    @functools.wraps(transfer)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return transfer(*args, **kwargs)
        except RuntimeError as error:
            raise ExchangeFailed(f"an exchange with another worker failed: {error}") from error

    return told
