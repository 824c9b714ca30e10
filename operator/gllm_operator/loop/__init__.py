"""One pass over a deployment: look, plan, carry out; and when the next one is due."""
