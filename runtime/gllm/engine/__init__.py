"""The engine, the process of a group that schedules: requests, KV pages, prefix cache, micro-batches. No torch."""
