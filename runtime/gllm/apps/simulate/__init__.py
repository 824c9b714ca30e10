"""A discrete-event simulation of the pipeline that runs the engine's own scheduler. No torch, no sockets."""
