"""Launches that skip Triton's inspection of the arguments, which takes the host longer than a small kernel runs."""

from __future__ import annotations

from typing import Any


class Launcher:
    """Starts one kernel. Keeps what Triton compiled under the caller's key, and starts it directly the next time.

    So the key must hold everything that Triton specializes on: types, constants, and whether 16 divides an integer or
    pointer (except those in `do_not_specialize`). Memory that torch allocates is aligned.
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
            # Triton's interpreter returns None: nothing is kept.
            self._compiled[key] = self._kernel[grid](*arguments, **constants, **options)
        else:
            compiled[grid](*arguments, *constants.values())
