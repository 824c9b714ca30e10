"""The reconcile loop: observe, plan, execute, and wait for the next change or deadline."""
