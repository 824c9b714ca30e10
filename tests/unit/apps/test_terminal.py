"""Bars and tables: drawn on a terminal, plain text or nothing elsewhere."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gllm.apps.request_progress import RequestProgress
from gllm.hub.download import _download_bar
from gllm.progress import LINE_SECONDS, Progress
from gllm.supervisor.progress import ProgressPrinter
from gllm.terminal import Bars, markdown_table, print_table
from gllm.wire.messages import ProcessStatus

COLUMNS, ROWS = ("policy", "tok/s"), [["balanced", "1234"], ["no_wt [x]", "99"]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("gllm.terminal.REFRESH_SECONDS", 0.0)
    return


def status(rank: int, progress: float, state: str = "loading") -> ProcessStatus:
    return ProcessStatus(
        role=f"worker-{rank}", epoch=0, pid=1, state=state, detail="reading weights", progress=progress
    )


def test_a_bar_is_drawn_and_removed() -> None:
    terminal = Terminal()
    with Bars(terminal, "count") as bars:
        bars.show("requests", 3, 12, note="7 tokens [b]")
        assert "requests" in terminal.getvalue()
        assert "3/12" in terminal.getvalue()
        assert "7 tokens [b]" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K"), "the line of the bar is erased"
    assert "\x1b[?25h" in terminal.getvalue(), "the cursor is visible again"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_nothing_is_drawn_without_a_capable_terminal(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with Bars(stream) as bars:
        bars.show("weights", 0.5)
        bars.remove("weights")
    with RequestProgress(2, stream=stream) as progress:
        progress.update(5)
    assert stream.getvalue() == ""
    assert progress.done == 1


def test_a_log_gets_a_line_now_and_then() -> None:
    log = io.StringIO()
    now = 0.0
    with Progress("cases", 180, stream=log, clock=lambda: now) as progress:
        for _ in range(180):
            now += LINE_SECONDS / 60
            progress.update()
    assert log.getvalue().splitlines() == ["60/180 cases", "120/180 cases", "180/180 cases"]
    with Progress("cases", stream=log, visible=False, clock=lambda: now) as progress:
        now += LINE_SECONDS + 1
        progress.update("a note")
    assert len(log.getvalue().splitlines()) == 3, "a caller that wants no progress gets none"
    with Progress("cases", stream=log, clock=lambda: now) as progress:
        now += LINE_SECONDS + 1
        progress.show(7, 9, "a note")
    assert log.getvalue().splitlines()[-1] == "7/9 cases, a note"


def test_requests_leave_one_line() -> None:
    terminal = Terminal()
    with RequestProgress(2, stream=terminal) as progress:
        progress.update(5)
        progress.update(0, failed=True)
    last = terminal.getvalue().splitlines()[-1]
    assert "2/2 requests, 5 tokens" in last
    assert last.endswith("1 failed")


def test_the_start_of_a_server_in_a_log() -> None:
    log = io.StringIO()
    printer = ProgressPrinter(log)
    for percent in range(101):
        printer.status(status(0, percent / 100))
    printer.status(status(0, 0.0, state="ready"))
    printer.line("gllm: serving")
    lines = ["", " 25%", " 50%", " 75%", " 100%"]
    assert log.getvalue().splitlines() == [f"worker-0: reading weights{share}" for share in lines] + ["gllm: serving"]


def test_the_start_of_a_server_on_a_terminal() -> None:
    terminal = Terminal()
    printer = ProgressPrinter(terminal)
    printer.status(status(0, 0.4))
    printer.status(status(1, 0.5))
    drawn = terminal.getvalue()
    assert "worker-0" in drawn
    assert "40%" in drawn
    assert "worker-1" in drawn
    printer.line("gllm: error: no memory")
    assert terminal.getvalue().endswith("gllm: error: no memory\n")
    printer.status(status(1, 0.6))
    printer.status(status(1, 0.0, state="ready"))
    assert "\x1b[2K" in terminal.getvalue().rpartition("60%")[2]


def test_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    print_table(COLUMNS, ROWS)
    assert capsys.readouterr().out == markdown_table(COLUMNS, ROWS) + "\n"
    assert markdown_table(COLUMNS, ROWS).splitlines()[2] == "| balanced  | 1234  |"
    print_table(COLUMNS, ROWS, plain="as vLLM prints it")
    assert capsys.readouterr().out == "as vLLM prints it\n"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_table(COLUMNS, ROWS, title="Simulation", plain="as vLLM prints it")
    for text in ("Simulation", "balanced", "no_wt [x]", "1234"):
        assert text in terminal.getvalue()


def test_downloads_have_the_same_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    for stream, is_drawn in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        options = {"total": 100, "desc": "model.safetensors", "disable": None, "file": stream, "mininterval": 0}
        with _download_bar()(**options) as bar:
            bar.update(50)
        assert ("model.safetensors" in stream.getvalue()) == is_drawn


@pytest.mark.parametrize("module", ["gllm.apps.cli.main", "gllm.supervisor.supervisor", "gllm.apps.offline.llm"])
def test_rich_is_imported_when_it_draws(module: str) -> None:
    check = f"import sys, {module}; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
