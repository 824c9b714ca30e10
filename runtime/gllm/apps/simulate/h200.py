"""Measured times of a layer of Qwen2.5-32B on one H200 (bf16, torch 2.11, 28 November 2026)."""

from __future__ import annotations

from gllm.apps.simulate.hardware import TILE

_PRODUCTS_US = (
    266, 268, 268, 268, 270, 272, 279, 279, 285, 293, 308, 334, 334, 352, 356, 364,
    397, 413, 435, 459, 466, 509, 515, 520, 562, 589, 589, 617, 623, 624, 656, 674,
    705, 749, 749, 749, 811, 811, 811, 849, 849, 849, 915, 942, 951, 1011, 1011, 1041,
    1048, 1048, 1048, 1048, 1063, 1066, 1095, 1145, 1145, 1221, 1221, 1221, 1287, 1312, 1312, 1445,
)  # fmt: skip
"""Microseconds of the four matrix products of 16, 32, ... 1024 tokens, each measured alone (median, CUDA events), made
monotonic by isotonic regression: a batch of fewer tokens can be padded. It has the steps of the kernels' tiles. Least
squares give no tile size in which the time would be a staircase: no rounding to a multiple of 32, 64, 128 or 256 and no
number of thread-block waves on 132 multiprocessors explains the 128 measured sizes better than a straight line does
(root mean square error 5.9 %; a staircase of 64: 6.7 %, of 128: 8.8 %; waves of 128 x 128: 14 %)."""

SMALL_KERNELS = 0.146e-6
"""Seconds of a token beside the products: norms, rope, activation, KV write. Fit of 115 whole steps of 16 layers (0 to
256 decodes, chunks up to 2048 tokens); with it and the products those steps are predicted with a mean error of 3 %."""

FURTHER_TOKEN = 1.42e-6 + SMALL_KERNELS
"""Seconds of a token beyond the table."""

LAYER_STEPS = tuple(
    1e-6 * micros + SMALL_KERNELS * TILE * number for number, micros in enumerate(_PRODUCTS_US, start=1)
)
"""Seconds of a layer without attention for 16, 32, ... tokens."""
