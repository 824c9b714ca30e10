"""gLLM: LLM serving over a balanced pipeline of GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gllm.apps.offline.llm import LLM, Completion
    from gllm.sampling_params import SamplingParams

__all__ = ["LLM", "Completion", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the public names on first use, so that `import gllm.wire.messages` stays light."""
    if name == "SamplingParams":
        from gllm.sampling_params import SamplingParams

        return SamplingParams
    if name in ("LLM", "Completion"):
        import gllm.apps.offline.llm

        return getattr(gllm.apps.offline.llm, name)
    raise AttributeError(f"module 'gllm' has no attribute {name!r}")
