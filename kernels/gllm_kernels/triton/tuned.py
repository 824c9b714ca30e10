"""Written by `benchmarks/gpu_experts.py --tune`.

(hidden, intermediate) -> (rows an expert up to which, rows of a block, tile of the gated product, of the second), where
a tile is (columns, depth, warps, stages, band).
"""

import math

TUNED = {
    (2048, 768): (
        (4.0, 16, (32, 128, 4, 4, 8), (64, 128, 4, 4, 8)),
        (math.inf, 128, (128, 64, 8, 3, 8), (256, 64, 8, 3, 8)),
    ),
}
