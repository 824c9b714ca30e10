"""HTTP: routes, server-sent events, limits, errors as responses."""
