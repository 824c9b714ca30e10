"""What all requests share: the served model, the engine, admission, metrics."""
