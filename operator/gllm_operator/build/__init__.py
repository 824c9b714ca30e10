"""Pure functions from a spec to Kubernetes objects, one file a kind."""
