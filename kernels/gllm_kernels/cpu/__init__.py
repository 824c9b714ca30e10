"""CPU kernels in C++: packed matrix products, norms, rope, paged attention.

`native` is the compiled module (see _native.pyi for its functions) or None. At import the best
instruction set of the CPU is chosen: avx512 (with BF16), avx2 (with FMA) or scalar. GLLM_KERNELS_ISA overrides it.
"""

from __future__ import annotations

import os
from types import ModuleType


def _load() -> tuple[ModuleType | None, str]:
    """The compiled module, or None and the reason."""
    try:
        from gllm_kernels.cpu import _native
    except ImportError as error:
        return None, f"the C++ kernels are not built ({error}); install a C++ compiler and reinstall gllm"
    wanted = os.environ.get("GLLM_KERNELS_ISA", "")
    if wanted:
        if wanted not in _native.supported_isas():
            runs = ", ".join(_native.supported_isas())
            return None, f"GLLM_KERNELS_ISA={wanted} does not run here; this machine has {runs}"
        _native.select_isa(wanted)
    return _native, ""


native, _reason = _load()


def available() -> bool:
    """Whether the compiled kernels can be used in this process."""
    return native is not None


def unavailable_reason() -> str:
    """Why they are not available, and what to do; empty if they are."""
    return _reason


def isa() -> str:
    """The instruction set in use: avx512, avx2 or scalar; "none" without kernels."""
    return str(native.isa()) if native is not None else "none"


def set_num_threads(count: int) -> None:
    """Set the number of threads that a kernel call uses, the caller's included; the default is 1.

    The module has its own threads. When kernels are in use, limit torch (OpenMP) to one thread, because both would
    compete for the same cores. The threads start at the next call, also in a forked child, and sleep when idle.
    """
    if native is None:
        raise RuntimeError(_reason)
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    native.set_num_threads(count)
