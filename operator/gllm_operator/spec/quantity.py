"""Amounts of memory in the notation of Kubernetes."""

from __future__ import annotations

import re

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_quantity(text: str) -> int:
    """Return the bytes of a text such as 80Gi, 1.5G or 1024. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(i?)B?", text)
    if match is None:
        raise ValueError(f"{text!r} is not an amount of memory: write for example 80Gi")
    unit = _UNITS[match[2]] if not match[3] else 1024 ** "_KMGT".index(match[2] or "_")
    return int(float(match[1]) * unit)
