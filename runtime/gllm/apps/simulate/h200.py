"""Measured times of a layer of Qwen2.5-32B on one H200 (bf16, torch 2.11, 28 November 2026)."""

from __future__ import annotations

from gllm.apps.simulate.hardware import TILE

_PRODUCTS_US = (
    259, 259, 259, 259, 262, 264, 267, 270, 287, 303, 329, 354, 371, 388, 388, 388,
    426, 463, 489, 514, 565, 616, 618, 620, 638, 655, 673, 691, 705, 718, 732, 746,
    834, 834, 853, 853, 1040, 1040, 1040, 1040, 1079, 1079, 1079, 1079, 1084, 1084, 1084, 1084,
    1367, 1367, 1367, 1367, 1367, 1367, 1367, 1367, 1367, 1367, 1367, 1367, 1416, 1416, 1416, 1416,
    1694, 1694, 1694, 1694, 1694, 1694, 1694, 1694, 1808, 1808, 1808, 1808, 1870, 1870, 1870, 1870,
    1963, 1963, 1963, 1963, 2031, 2031, 2031, 2031, 2114, 2114, 2114, 2114, 2173, 2173, 2173, 2173,
    2292, 2292, 2292, 2292, 2370, 2370, 2370, 2370, 2534, 2534, 2534, 2534, 2534, 2534, 2534, 2534,
    2739, 2739, 2739, 2739, 2739, 2739, 2739, 2739, 2842, 2842, 2842, 2842, 2842, 2842, 2842, 2842,
)  # fmt: skip
"""Microseconds of the four matrix products of 16, 32, ... 2048 tokens. Whole captured steps of 32 layers with one chunk
were timed at 40 sizes, and the rest of the step was subtracted; between sizes up to 512 tokens lies a straight line,
above the next size's time. A size that takes longer than a larger one has the larger one's time: a batch can be padded.
The products have steps: 256 tokens take as long as 224, 768 hardly longer than 704, 1024 as long as 832."""

SMALL_KERNELS = 0.146e-6
"""Seconds of a token beside the products: norms, rope, activation, KV write. Fit of 115 whole steps of 16 layers (0 to
256 decodes, chunks up to 2048 tokens); with it and the products those steps are predicted with a mean error of 3 %."""

FURTHER_TOKEN = 1.42e-6 + SMALL_KERNELS
"""Seconds of a token beyond the table."""

LAYER_STEPS = tuple(
    1e-6 * micros + SMALL_KERNELS * TILE * number for number, micros in enumerate(_PRODUCTS_US, start=1)
)
"""Seconds of a layer without attention for 16, 32, ... tokens."""
