"""The APIs: from their bodies to a request, from its deltas to their answers."""
