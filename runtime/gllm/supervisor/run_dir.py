"""The folder of a group's Unix sockets."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# A Unix socket's path has at most 107 bytes; the folder's own name and the longest socket name need about 45.
_LONGEST_BASE = 60


def make_run_dir() -> Path:
    """A new folder that only this user can enter (0700), under XDG_RUNTIME_DIR or else /tmp."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if not base or len(os.fsencode(base)) > _LONGEST_BASE or not os.access(base, os.W_OK | os.X_OK):
        base = "/tmp"
    return Path(tempfile.mkdtemp(prefix="gllm-", dir=base))
