"""Bad words on the device: the same masks as on the CPU, and no wait for the device."""

from __future__ import annotations

import pytest
import torch

from gllm.worker.sampling.state import BadWords

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

RUNS = ((9,), (4, 5), (1, 2, 3), (6, 6, 3), (7, 3))


def test_masks_as_on_the_cpu_without_waiting() -> None:
    devices = [torch.device("cpu"), torch.device("cuda")]
    words = [BadWords(RUNS, [1], device) for device in devices]
    for token in (2, 6, 6, 7, 1, 2, 4, 4):
        masked = []
        for each, device in zip(words, devices, strict=True):
            logits = torch.zeros(16, device=device)
            sampled = torch.tensor([token], device=device)
            torch.cuda.set_sync_debug_mode("error" if device.type == "cuda" else "default")
            try:
                each.add(sampled)
                each.mask(logits)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            masked.append(logits.isneginf().nonzero()[:, 0].tolist())
        assert masked[0] == masked[1]
        assert 9 in masked[0]
