"""The objects that all requests share: the served model, the engine, admission, metrics."""
