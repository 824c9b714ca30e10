"""For all tests: signals as a terminal would have them.

A shell that starts a job in the background makes it ignore SIGINT, children inherit that, and `gllm serve` then
ignores Ctrl-C on purpose. Tests that send SIGINT need the default.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
