"""`gllm top`: the figures of running servers in the terminal, from their /metrics."""
