"""The life cycle of one request: admit, generate, deltas, close."""
