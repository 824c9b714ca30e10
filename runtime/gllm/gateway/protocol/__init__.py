"""The APIs as data: request bodies and their bounds, errors, chunks, logprobs, usage."""
