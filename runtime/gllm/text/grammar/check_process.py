"""The child process of `GrammarChecker`: reads length-prefixed frames on stdin, first a Job, then grammars."""

from __future__ import annotations

import math
import os
import resource
import struct
import sys
import time
from pathlib import Path
from typing import IO

import msgspec

MEMORY_BYTES = 1 << 29
"""Bytes of address space that grammars may take, beyond what the process uses before the first one."""
CPU_SECONDS = 5
"""CPU time that a grammar may take. Wall-clock time would depend on the load of the machine."""
_LENGTH = struct.Struct("<I")


class Job(msgspec.Struct, array_like=True):
    tokenizer_json: str
    eos_token_ids: list[int]
    logits_width: int


class Verdict(msgspec.Struct, array_like=True):
    error: str
    """Empty if the grammar compiles."""


def write_frame(stream: IO[bytes], frame: bytes) -> None:
    stream.write(_LENGTH.pack(len(frame)))
    stream.write(frame)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes:
    """Return the next frame. Raises EOFError if the other side has closed."""
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(header)
    frame = stream.read(size)
    if len(frame) < size:
        raise EOFError
    return frame


def main() -> None:
    """Serve until the parent closes the pipe. The priority is low: running streams come first."""
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _serve()
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        sys.exit(0)


def _serve() -> None:
    from llguidance import LLTokenizer

    from gllm.sampling_params import ParameterError
    from gllm.text.grammar.matcher import check_grammar

    source, sink = sys.stdin.buffer, sys.stdout.buffer
    job = msgspec.msgpack.decode(read_frame(source), type=Job)
    ll_tokenizer = LLTokenizer(job.tokenizer_json, n_vocab=job.logits_width, eos_token=job.eos_token_ids)
    _limit_memory()
    error = ""
    while True:
        write_frame(sink, msgspec.msgpack.encode(Verdict(error)))
        grammar = read_frame(source).decode("utf-8", "replace")
        _limit_cpu()
        try:
            check_grammar(grammar, ll_tokenizer, param="")
            error = ""
        except ParameterError as problem:
            error = str(problem).removeprefix(": ")


def _limit_cpu() -> None:
    """Limit the CPU time of the next grammar. The kernel ends this process when the limit is reached."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(time.process_time()) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _limit_memory() -> None:
    status = Path("/proc/self/statm")
    if status.exists():
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
