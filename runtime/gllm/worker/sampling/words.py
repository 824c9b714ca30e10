"""Runs of tokens that a sequence must not generate."""

from __future__ import annotations

import torch

_ANY = -2
"""In a run's prefix: matches whatever comes there."""
_NOTHING = -1
"""In the history: before the first token of the output."""


class BadWords:
    """Masks the last token of each run where the output ends with the tokens before it.

    The output's end is kept on the device, so that no step waits for the token of the one before.
    """

    def __init__(self, runs: tuple[tuple[int, ...], ...], output: list[int], device: torch.device) -> None:
        """output: what the sequence has generated so far."""
        width = max(len(run) for run in runs) - 1
        prefixes = [[_ANY] * (width - len(run) + 1) + list(run[:-1]) for run in runs]
        self._prefixes = torch.tensor(prefixes, dtype=torch.int64, device=device).view(len(runs), width)
        """[runs, width]"""
        self._free = self._prefixes == _ANY
        self._last = torch.tensor([run[-1] for run in runs], dtype=torch.int64, device=device)
        """[runs]"""
        recent = ([_NOTHING] * width + output)[len(output) :]
        self._recent = torch.tensor(recent, dtype=torch.int64, device=device)
        """[width] the output's last tokens."""

    def mask(self, logits: torch.Tensor) -> None:
        """logits: [vocab] float32, edited in place."""
        matches = ((self._prefixes == self._recent) | self._free).all(-1)
        # Several runs may end in the same token: adding is the same in any order.
        logits.index_add_(0, self._last, torch.where(matches, -torch.inf, 0.0).to(logits.dtype))

    def add(self, token: torch.Tensor) -> None:
        """token: [1] int64 on the device; waits for nothing."""
        if len(self._recent):
            self._recent = torch.cat((self._recent[1:], token))
