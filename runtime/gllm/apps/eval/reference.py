"""A model in transformers, as the reference: its choice after each token, and the log-probabilities of a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gllm.apps.eval.agreement import Compared


class Reference:
    """A causal language model of transformers, loaded from a folder or a GGUF file."""

    def __init__(self, model: Path, *, dtype: str, device: str) -> None:
        """Raises ValueError if transformers is missing or cannot load the model."""
        try:
            import torch
            from transformers import AutoModelForCausalLM
            from transformers.utils import logging
        except ImportError:
            raise ValueError("the reference needs transformers: pip install 'gllm[eval]'") from None
        self._torch = torch
        had_bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        where: dict[str, Any] = {"pretrained_model_name_or_path": model}
        if model.is_file():
            where = {"pretrained_model_name_or_path": model.parent, "gguf_file": model.name}
        try:
            loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=getattr(torch, dtype))
            self._model: Any = loaded.to(device).eval()
        except (OSError, ImportError, KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"--reference {model}: transformers cannot load it: {error}") from None
        finally:
            if had_bars:  # the switch is the process's, and downloads of the hub have bars too
                logging.enable_progress_bar()
        self._device = device

    def compare(self, prompt: Sequence[int], answer: Sequence[int]) -> Compared:
        """Compare each token of an answer with the reference's choice after the same tokens."""
        torch = self._torch
        logits = self._logits([*prompt, *answer])[len(prompt) - 1 : -1]  # [answer, vocab]
        chosen = torch.tensor(list(answer), device=self._device)[:, None]
        gaps = logits.max(-1).values - logits.gather(1, chosen)[:, 0]
        return Compared(gaps=gaps.tolist())

    def logprobs(self, tokens: Sequence[int]) -> list[float]:
        """Return the log-probability of each token but the first, given those before it."""
        torch = self._torch
        logits = self._logits(tokens)[:-1]  # [tokens - 1, vocab]
        following = torch.tensor(list(tokens[1:]), device=self._device)[:, None]
        values: list[float] = torch.log_softmax(logits, -1).gather(1, following)[:, 0].tolist()
        return values

    def _logits(self, tokens: Sequence[int]) -> Any:
        """Return the logits [tokens, vocab] in float32."""
        with self._torch.inference_mode():
            batch = self._torch.tensor([list(tokens)], device=self._device)
            return self._model(batch).logits[0].float()
