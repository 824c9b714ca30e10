"""Where the paper's comparison runs: the model, the shapes and the traces for the GPUs that are there, or the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec

from dummy_model import write_dummy_model
from servers import ServerCommand, free_port

PAGE_SIZE = 16


class Shape(msgspec.Struct, frozen=True):
    """Stages, and ranks of each."""

    pp: int
    tp: int = 1

    @property
    def name(self) -> str:
        return f"PP{self.pp}" if self.tp == 1 else f"TP{self.tp} PP{self.pp}"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A machine, and how a model is served on it."""

    about: str
    model: str
    """A path; "": the default model."""
    flags: tuple[str, ...]
    shapes: tuple[Shape, ...]
    traces: tuple[str, ...]
    divisor: int
    """Lengths are those of the traces, divided by this."""
    concurrency: int
    max_num_seqs: int
    max_model_len: int
    kv_tokens: int

    def command(self, shape: Shape, policy: str, trace: Path | None) -> ServerCommand:
        """Return the command of a server without prefix cache."""
        port = free_port()
        command = [
            *(sys.executable, "-c", "from gllm.apps.cli.main import main; main()", "serve"),
            *([self.model] if self.model else []),
            *("--host", "127.0.0.1", "--port", str(port), "--no-prefix-caching", "--policy", policy),
            *("--pp", str(shape.pp), "--tp", str(shape.tp), "--max-model-len", str(self.max_model_len)),
            *("--max-num-seqs", str(self.max_num_seqs)),
            *("--num-pages", str(self.kv_tokens // PAGE_SIZE), "--page-size", str(PAGE_SIZE)),
            *(["--trace", str(trace)] if trace is not None else []),
            *self.flags,
        ]
        return ServerCommand("gllm", command, port, health="/ready")


def parse_shape(text: str) -> Shape:
    """Parse pp4 or tp2pp2. Raises ValueError."""
    match = re.fullmatch(r"(?:tp(\d+))?pp(\d+)", text)
    if match is None:
        raise ValueError(f"a shape looks like pp4 or tp2pp2, not {text!r}")
    return Shape(int(match[2]), int(match[1] or 1))


def place_here(folder: Path) -> Place:
    """Return the machine's GPUs with a model of random weights, or its CPU with the default model.

    folder: for the model's files.
    """
    gpus = _gpus()
    return _gpu_place(gpus, folder) if gpus else _cpu_place()


def _cpu_place() -> Place:
    cores = os.cpu_count() or 1
    return Place(
        about=f"SmolLM2-135M-Instruct on {cores} CPU cores ({_cpu_model()}), one thread for each stage",
        model="",
        flags=("--threads", "1"),
        shapes=(Shape(1), Shape(2)) if cores < 4 else (Shape(2), Shape(4)),
        traces=("sharegpt", "azure"),
        divisor=4,
        concurrency=8,
        max_num_seqs=256,
        max_model_len=2048,
        kv_tokens=65536,
    )


def _gpu_place(gpus: list[str], folder: Path) -> Place:
    count = len(gpus)
    shape = "qwen2.5-32b" if count > 1 else "qwen3-8b"
    shapes = [Shape(count)]
    if count >= 4:
        shapes.append(Shape(count // 2, 2))
    return Place(
        about=f"{shape} with random weights on {count} {gpus[0]}",
        model=str(write_dummy_model(shape, folder / shape)),
        flags=("--load-format", "dummy", "--device", "cuda", "--dtype", "bfloat16"),
        shapes=tuple(shapes),
        traces=("sharegpt", "azure"),
        divisor=1,
        concurrency=128 * count,
        max_num_seqs=1024,
        max_model_len=8192,
        kv_tokens=160_000 * count,
    )


def _gpus() -> list[str]:
    """Return the names of the GPUs."""
    try:
        names = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.strip() for line in names.stdout.splitlines() if line.strip()]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"
