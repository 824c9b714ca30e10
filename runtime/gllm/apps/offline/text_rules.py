"""What sampling parameters ask of an answer's text, prepared once for all prompts that share them."""

from __future__ import annotations

from functools import lru_cache

from gllm.text.output.stop_patterns import StopPatterns
from gllm.text.output.stop_strings import StopStrings

stop_strings = lru_cache(16)(StopStrings)
stop_patterns = lru_cache(16)(StopPatterns)
