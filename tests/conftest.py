"""For all tests: signals as a terminal would have them, and no deadline for an example of hypothesis.

A shell that starts a job in the background makes it ignore SIGINT, children inherit that, and `gllm serve` then
ignores Ctrl-C on purpose. Tests that send SIGINT need the default. An example may take 200 ms by default, which a busy
machine does not keep.
"""

import os
import signal

import hypothesis

# A model that is not there is not looked for on the network.
os.environ["HF_HUB_OFFLINE"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("gllm", deadline=None)
hypothesis.settings.load_profile("gllm")
