"""Launches without Triton's look at every argument, which costs the host more than a small kernel does the device."""

from __future__ import annotations

from typing import Any


class Launcher:
    """Starts one kernel. What Triton compiled is kept by the caller's key and started directly the next time.

    So the key must hold all that Triton specializes on: types, constants, and of integers and pointers that it may
    specialize on (those not listed in `do_not_specialize`) whether 16 divides them. Memory fresh from torch is aligned.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._compiled: dict[Any, Any] = {}

    def __call__(
        self,
        key: Any,
        grid: tuple[int, int, int],
        arguments: tuple[Any, ...],
        constants: dict[str, Any],
        **options: Any,
    ) -> None:
        """constants: the kernel's constexprs by name, in the order of its signature, after all other arguments."""
        compiled = self._compiled.get(key)
        if compiled is None:
            # In Triton's interpreter there is nothing to keep.
            self._compiled[key] = self._kernel[grid](*arguments, **constants, **options)
        else:
            compiled[grid](*arguments, *constants.values())
