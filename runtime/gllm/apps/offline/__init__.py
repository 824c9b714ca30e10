"""The engine without HTTP: what `gllm.LLM` and the offline commands are made of."""
