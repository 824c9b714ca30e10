"""Pure functions that render Kubernetes objects from a spec."""
