"""Access to the API server: the client, watches that fill a cache, and leader election."""
