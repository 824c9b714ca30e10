"""The meaning of a spec: its parallel config, the estimate of its memory, and its revision."""
