"""The engine without HTTP, for `gllm.LLM` and the offline commands."""
