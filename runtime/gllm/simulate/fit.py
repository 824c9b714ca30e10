"""A pipeline for the simulator from a real run: the stages' coefficients out of the file that `--trace` wrote."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from gllm.engine.time_model import StageModel, Work
from gllm.engine.trace import read_slices
from gllm.simulate.hardware import Hardware, StageTimes

_ROUNDS = 4
"""Times that the run is gone through: the first ones settle scale and outliers."""


def fit_trace(path: Path, kv_tokens: int) -> tuple[Hardware, list[float]]:
    """The pipeline, and for each stage the mean relative error of the fitted times over the run.

    The model is the scheduler's own (`gllm.engine.time_model`). Transfers and the engine's way keep the simulator's
    defaults: a trace tells when stages computed, and not why they waited. ValueError if a stage has no steps.
    """
    runs: dict[int, list[tuple[Work, float]]] = {}
    for stage, work, seconds in read_slices(path):
        runs.setdefault(stage, []).append((work, seconds))
    if not runs or sorted(runs) != list(range(len(runs))):
        raise ValueError(f"{path} lacks steps of some stages: it has stages {sorted(runs)}")
    models = [_fit(runs[stage]) for stage in sorted(runs)]
    errors = [
        fmean(abs(model.cost.predict(work) / seconds - 1.0) for work, seconds in runs[stage] if seconds > 0.0)
        for stage, model in enumerate(models)
    ]
    hardware = Hardware(
        stages=tuple(StageTimes.of(model.cost) for model in models), kv_tokens=kv_tokens, jitter=_jitter(errors)
    )
    return hardware, errors


def _fit(steps: list[tuple[Work, float]]) -> StageModel:
    model = StageModel(forgetting=1.0)
    for _ in range(_ROUNDS):
        for work, seconds in steps:
            model.observe(work, seconds)
    return model


def _jitter(errors: list[float]) -> float:
    """What the model does not explain, as noise: a normal variable's deviation is 1.25 times its mean distance."""
    return min(1.25 * fmean(errors), 0.5)
