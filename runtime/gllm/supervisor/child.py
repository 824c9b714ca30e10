"""What every child process does first: tie its life to the supervisor's."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

SUPERVISOR_PID_VARIABLE = "GLLM_SUPERVISOR_PID"
"""Set by the supervisor in the environment of its children."""

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to SIGKILL this process when its parent goes, so that no supervisor death leaves an orphan.

    Linux only; elsewhere a no-op. The signal follows the parent *thread*: it fires when the thread that started
    this process ends.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the call above; then no signal will ever come.
    supervisor = os.environ.get(SUPERVISOR_PID_VARIABLE)
    if supervisor is not None and os.getppid() != int(supervisor):
        os.kill(os.getpid(), signal.SIGKILL)
