"""Settings for all tests: no network, the default SIGINT handler, no deadline for examples of hypothesis.

A shell that starts a job in the background makes it ignore SIGINT. Children inherit this, and `gllm serve` then
ignores Ctrl-C on purpose. Tests that send SIGINT need the default. Hypothesis limits an example to 200 ms by default,
which a busy machine may exceed.
"""

import os
import signal

import hypothesis

# Missing models are not searched on the network.
os.environ["HF_HUB_OFFLINE"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("gllm", deadline=None)
hypothesis.settings.load_profile("gllm")
