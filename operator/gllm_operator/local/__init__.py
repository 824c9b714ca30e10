"""A manifest without a cluster: prints the objects that the operator would apply, or runs them as local processes."""
