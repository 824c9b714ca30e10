"""The engine's client, in the gateway and in `LLM`: requests in, streams out. It outlives an engine that fails."""
