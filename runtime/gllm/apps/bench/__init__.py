"""Load generation and measurement: workloads, the HTTP client, the figures."""
