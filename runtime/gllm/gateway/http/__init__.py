"""HTTP itself: routes, errors, streaming, limits, the process's life."""
