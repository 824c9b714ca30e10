"""The same manifest without a cluster: what the operator would apply, printed or run as processes of this machine."""
