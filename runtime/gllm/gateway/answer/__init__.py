"""What a client gets: choices, chunks, log-probabilities, usage."""
