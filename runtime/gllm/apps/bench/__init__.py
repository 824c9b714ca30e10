"""Load generation and measurement: the traces, the HTTP client, the figures."""
