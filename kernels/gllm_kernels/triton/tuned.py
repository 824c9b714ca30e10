"""Written by `benchmarks/gpu_experts.py --tune`.

(hidden, intermediate) -> (most rows per expert, rows of a block, tile of the gated product, tile of the second), where
a tile is (columns, depth, warps, stages, band, described).
"""

import math

TUNED = {
    (4096, 14336): (
        (0.707, 16, (32, 256, 4, 5, 8, False), (64, 256, 4, 4, 8, False)),
        (4, 16, (32, 256, 4, 5, 8, False), (128, 128, 4, 3, 8, False)),
        (10, 16, (32, 256, 4, 5, 8, False), (64, 64, 4, 3, 8, False)),
        (64, 64, (64, 128, 8, 4, 16, False), (128, 128, 4, 4, 16, False)),
        (256, 128, (128, 64, 8, 4, 16, True), (256, 64, 8, 4, 16, True)),
        (1.02e03, 128, (128, 64, 8, 3, 16, True), (256, 64, 8, 4, 16, True)),
        (math.inf, 128, (128, 64, 8, 3, 16, True), (256, 64, 8, 4, 16, True)),
    ),
    (2048, 768): (
        (0.177, 16, (64, 128, 4, 4, 8, False), (64, 64, 4, 5, 8, False)),
        (1, 16, (32, 128, 4, 3, 8, False), (64, 128, 4, 3, 8, False)),
        (4, 16, (32, 256, 4, 3, 8, False), (128, 128, 4, 3, 8, False)),
        (10, 16, (32, 256, 4, 3, 8, False), (128, 128, 4, 4, 8, False)),
        (64, 64, (64, 64, 4, 3, 16, False), (128, 64, 8, 4, 16, False)),
        (256, 128, (128, 64, 8, 4, 16, True), (256, 64, 8, 4, 16, True)),
        (math.inf, 128, (64, 64, 8, 3, 16, True), (256, 64, 8, 4, 16, True)),
    ),
}
