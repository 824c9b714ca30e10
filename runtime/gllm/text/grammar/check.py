"""Compiles the grammars of clients in a child process with bounded time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from gllm.sampling_params import MAX_GRAMMAR_BYTES, ParameterError
from gllm.text.grammar import check_process
from gllm.text.grammar.check_process import CPU_SECONDS, Job, Verdict, read_frame, write_frame

if TYPE_CHECKING:
    from gllm.text.tokenizer import Tokenizer

CHECK_SECONDS = 30.0
"""Maximum wall-clock time of a check. The kernel ends the child earlier, after CPU_SECONDS of CPU time."""
START_SECONDS = 60.0
MAX_CACHED = 256
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR")
"""Environment variables that the child gets: it needs these, and none is a secret."""


class GrammarChecker:
    """Checks that grammars compile for a tokenizer. `check` blocks: servers call it in a thread.

    The first check starts the child. The child ends if a check takes too much CPU time or memory, and is killed after
    CHECK_SECONDS; the next check starts another. The results of the last grammars are cached.
    """

    def __init__(self, tokenizer: Tokenizer, logits_width: int) -> None:
        self._setup = Job(tokenizer.to_json(), list(tokenizer.eos_token_ids), logits_width)
        self._lock = threading.Lock()
        self._verdicts: OrderedDict[str, str] = OrderedDict()
        self._child: subprocess.Popen[bytes] | None = None

    def check(self, grammar: str, *, param: str = "grammar") -> None:
        """Raise ParameterError(param) if the grammar is wrong, or too large or too slow to compile."""
        size = len(grammar.encode("utf-8", "replace"))
        if size > MAX_GRAMMAR_BYTES:
            raise ParameterError(
                param, f"{param}: the grammar has {size} bytes; at most {MAX_GRAMMAR_BYTES} are allowed"
            )
        with self._lock:
            error = self._verdicts.pop(grammar, None)
            if error is None:
                error = self._ask(grammar)
            self._verdicts[grammar] = error
            if len(self._verdicts) > MAX_CACHED:
                self._verdicts.popitem(last=False)
        if error:
            raise ParameterError(param, f"{param}: {error}")

    def close(self) -> None:
        """End the child, if one runs."""
        with self._lock:
            self._kill()

    def _ask(self, grammar: str) -> str:
        """Return the error in the grammar, empty if there is none."""
        if self._child is None or self._child.poll() is not None:
            self._start()
        answer = self._exchange(grammar.encode("utf-8", "replace"), CHECK_SECONDS)
        if answer is None:
            self._kill()
            return f"it is too complex: compiling it takes more than {CPU_SECONDS} s of CPU time, or too much memory"
        return msgspec.msgpack.decode(answer, type=Verdict).error

    def _start(self) -> None:
        self._child = subprocess.Popen(
            # -P: modules in the current folder must not replace others.
            [sys.executable, "-P", "-c", f"from {check_process.__name__} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        # Wait for the child, so that it does not stay a zombie until the next grammar.
        threading.Thread(target=self._child.wait, name="grammar-checker-reaper", daemon=True).start()
        if self._exchange(msgspec.msgpack.encode(self._setup), START_SECONDS) is None:
            self._kill()
            raise RuntimeError("the process that checks grammars did not start")

    def _exchange(self, frame: bytes, seconds: float) -> bytes | None:
        """Send a frame and wait for the answer; None if the child died or was too slow (then it is killed)."""
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        alarm = threading.Timer(seconds, child.kill)
        alarm.start()
        try:
            write_frame(child.stdin, frame)
            return read_frame(child.stdout)
        except (BrokenPipeError, EOFError):
            return None
        finally:
            alarm.cancel()

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # bytes for the dead child are left in the buffer
        child.wait()


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # An empty entry would be the current folder.
    kept["PYTHONPATH"] = os.pathsep.join(entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry)
    return kept
