"""Python's cyclic garbage collector, kept from pausing steps."""

from __future__ import annotations

import gc

_ALLOCATIONS = 100_000
"""Net allocations between collections: far more than a step's outputs, which reference counts free anyway."""


def calm_collector() -> None:
    """Leave what exists so far out of all collections and make them rare.

    The engine makes no cycles while it serves; with the defaults a step of a thousand rows would pay for
    several collections, some over the whole heap (tens of milliseconds).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, 50, 50)
