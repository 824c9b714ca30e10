"""Talking to the API server: a small async client, a cache that watches, and the lease of the leader."""
