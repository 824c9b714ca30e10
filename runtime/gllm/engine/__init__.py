"""The engine: the one place of a group that decides. Requests, KV pages, prefix cache, micro-batches. No torch here."""
