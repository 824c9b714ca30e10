"""Compiling a client's grammar where it can do no harm: in a child process with bounded time and memory."""

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
"""Seconds on the clock; the child itself is ended after CPU_SECONDS of CPU time."""
START_SECONDS = 60.0
MAX_REMEMBERED = 256
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR")
"""What the child gets of the environment: no secret, nothing that it does not need."""


class GrammarChecker:
    """Says whether a grammar compiles for this tokenizer. Blocking: servers call `check` in a thread.

    The child starts with the first check and stays. It dies when a check takes too much CPU time or memory, is killed
    after CHECK_SECONDS, and the next check starts another. Verdicts of the last grammars are remembered.
    """

    def __init__(self, tokenizer: Tokenizer, logits_width: int) -> None:
        self._setup = Job(tokenizer.to_json(), list(tokenizer.eos_token_ids), logits_width)
        self._lock = threading.Lock()
        self._verdicts: OrderedDict[str, str] = OrderedDict()
        self._child: subprocess.Popen[bytes] | None = None

    def check(self, grammar: str, *, param: str = "grammar") -> None:
        """Raises ParameterError(param) if the grammar is wrong, or too large or too slow to compile."""
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
            if len(self._verdicts) > MAX_REMEMBERED:
                self._verdicts.popitem(last=False)
        if error:
            raise ParameterError(param, f"{param}: {error}")

    def close(self) -> None:
        """Ends the child, if one runs."""
        with self._lock:
            self._kill()

    def _ask(self, grammar: str) -> str:
        """The error in the grammar, empty if there is none."""
        if self._child is None or self._child.poll() is not None:
            self._start()
        answer = self._exchange(grammar.encode("utf-8", "replace"), CHECK_SECONDS)
        if answer is None:
            self._kill()
            return f"it is too complex: compiling it takes more than {CPU_SECONDS} s of CPU time, or too much memory"
        return msgspec.msgpack.decode(answer, type=Verdict).error

    def _start(self) -> None:
        self._child = subprocess.Popen(
            # -P: the folder where the user happens to be must not shadow modules.
            [sys.executable, "-P", "-c", f"from {check_process.__name__} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        # Whatever ends the child, it does not stay a zombie until the next grammar.
        threading.Thread(target=self._child.wait, name="grammar-checker-reaper", daemon=True).start()
        if self._exchange(msgspec.msgpack.encode(self._setup), START_SECONDS) is None:
            self._kill()
            raise RuntimeError("the process that checks grammars did not start")

    def _exchange(self, frame: bytes, seconds: float) -> bytes | None:
        """Sends a frame and waits for the answer; None if the child died or was too slow (then it is killed)."""
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
                    continue  # what was buffered for the dead child is of no use
        child.wait()


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # An empty entry would be the current folder.
    kept["PYTHONPATH"] = os.pathsep.join(entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry)
    return kept
