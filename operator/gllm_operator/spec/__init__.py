"""What a spec means: its shape, whether it can work, what its pods are made from. Pure."""
