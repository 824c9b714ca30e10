"""Trace files of the pipeline for chrome://tracing and ui.perfetto.dev.

Each stage has a track with a slice for each step; counters have tracks too. The format is the JSON array of Google's
"Trace Event Format" (2016), one event per line; readers accept a truncated file.
"""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

import msgspec

from gllm.engine.time_model import Work
from gllm.wire.messages import EngineStats, StageReport

logger = logging.getLogger("gllm.engine")

MAX_EVENTS = 2_000_000
"""About 400 MB; later events are dropped."""
_STAGES, _ENGINE = 1, 2
"""Process ids of the tracks."""
_encode = msgspec.json.Encoder().encode
_WRONG_PATH = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG})
"""Errors of open() that the user can fix on the command line."""


def open_trace(path: str, epoch: int, pp: int) -> TraceWriter | None:
    """Open the trace of one epoch; None without a path. Epochs after the first write `path.EPOCH`.

    Raises ValueError if the path is wrong in the first epoch. Other errors, such as a full disk, must not stop a server
    that has served: they are logged and there is no trace.
    """
    if not path:
        return None
    if epoch:
        path = f"{path}.{epoch}"
    try:
        return TraceWriter(path, pp)
    except OSError as error:
        if not epoch and error.errno in _WRONG_PATH:
            raise ValueError(f"--trace {path}: {error.strerror}") from None
        logger.warning("no trace", extra={"path": path, "reason": error.strerror})
        return None


class TraceWriter:
    """Call `stage` for each report, `counters` at any time, and `close` at the end.

    Raises OSError if the file cannot be opened. If a later write fails (a full disk), the trace ends with a warning: it
    must not stop the server.
    """

    def __init__(self, path: str | Path, pp: int, *, max_events: int = MAX_EVENTS) -> None:
        self._left = max_events
        self._ends = [0.0] * pp
        """End of each stage's last slice, in microseconds."""
        self._file: TextIOWrapper | None = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 (until close)
        self._path = path
        self._write("[\n")
        self._first = True
        self._metadata("process_name", _STAGES, 0, "stages")
        self._metadata("process_name", _ENGINE, 0, "engine")
        for stage in range(pp):
            self._metadata("thread_name", _STAGES, stage, f"stage {stage}")

    def stage(self, report: StageReport, work: Work | None) -> None:
        """Write a slice. Slices of one stage never overlap: if its clock steps back, the slice is clipped."""
        if not 0 <= report.stage < len(self._ends):
            return
        begin = max(1e6 * report.started, self._ends[report.stage])
        end = max(1e6 * (report.started + report.elapsed), begin)
        self._ends[report.stage] = end
        args: dict[str, float] = {"step": report.step, "elapsed_us": round(1e6 * report.elapsed, 1)}
        if work is not None:
            args |= {
                "prefill_tokens": work.prefill_tokens,
                "decode_rows": work.decode_rows,
                "decode_context": work.decode_context,
                "attention": work.attention,
                "sampled_rows": work.sampled_rows,
            }
        self._event(
            {
                "name": f"step {report.step}",
                "ph": "X",
                "pid": _STAGES,
                "tid": report.stage,
                "ts": round(begin, 1),
                "dur": round(end - begin, 1),
                "args": args,
            }
        )

    def counters(self, now: float, stats: EngineStats) -> None:
        """Write points of the counter tracks; `now` is time.time()."""
        for name, value in (
            ("waiting tokens", stats.num_waiting_tokens),
            ("running requests", stats.num_running),
            ("KV usage", round(stats.kv_usage, 4)),
            ("micro-batches in flight", stats.num_inflight),
        ):
            self._event(
                {"name": name, "ph": "C", "pid": _ENGINE, "tid": 0, "ts": round(1e6 * now, 1), "args": {"value": value}}
            )

    def close(self) -> None:
        """Complete the JSON and close the file; later events are dropped."""
        self._write("\n]\n")
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._give_up(error)
            self._file = None

    def _metadata(self, name: str, pid: int, tid: int, value: str) -> None:
        self._event({"name": name, "ph": "M", "pid": pid, "tid": tid, "args": {"name": value}})

    def _event(self, event: dict[str, object]) -> None:
        if self._file is None or self._left <= 0:
            return
        self._left -= 1
        self._write(("" if self._first else ",\n") + _encode(event).decode())
        self._first = False

    def _write(self, text: str) -> None:
        if self._file is not None:
            try:
                self._file.write(text)
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        logger.warning("the trace ends", extra={"path": str(self._path), "reason": error.strerror})
        if self._file is not None:
            with suppress(OSError):  # Closing flushes, which fails again.
                self._file.close()
            self._file = None


@dataclass(frozen=True, slots=True)
class Slice:
    """A step on a stage, read from a trace file."""

    stage: int
    step: int
    begin: float
    """Seconds since 1970 on the stage's clock."""
    seconds: float
    work: Work

    @property
    def end(self) -> float:
        return self.begin + self.seconds


class _Event(msgspec.Struct):
    """A line of a trace file; fields that some events do not have get defaults."""

    ph: str
    tid: int = 0
    ts: float = 0.0
    args: dict[str, float | str] = {}


def read_slices(path: str | Path) -> list[Slice]:
    """Read all slices with their work, in the file's order. Raises ValueError if the file is not a trace of gLLM."""
    slices = []
    decode = msgspec.json.Decoder(_Event).decode
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            text = line.strip().rstrip(",")
            if text in ("", "[", "]"):
                continue
            try:
                event = decode(text)
                if event.ph == "X" and "sampled_rows" in event.args:
                    slices.append(_slice_of(event))
            except (msgspec.DecodeError, KeyError, ValueError) as error:
                raise ValueError(f"{path}, line {number}, is no event of a gLLM trace: {error}") from None
    return slices


def _slice_of(event: _Event) -> Slice:
    value = {name: float(argument) for name, argument in event.args.items()}
    work = Work(
        prefill_tokens=int(value["prefill_tokens"]),
        decode_rows=int(value["decode_rows"]),
        attention=value["attention"],
        decode_context=int(value["decode_context"]),
        sampled_rows=int(value["sampled_rows"]),
    )
    return Slice(event.tid, int(value["step"]), 1e-6 * event.ts, 1e-6 * value["elapsed_us"], work)
