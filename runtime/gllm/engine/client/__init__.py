"""The engine's other end, in the gateway and in `LLM`: requests in, streams out, over the deaths of engines."""
