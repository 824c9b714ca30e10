"""Fit a pipeline for the simulator to a real run, from the file that `--trace` wrote."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

from gllm.apps.simulate.hardware import Hardware, StageTimes
from gllm.engine.stage_model import StageModel
from gllm.engine.trace import Slice, read_slices

_ROUNDS = 4
"""Passes over the run; the first ones find the scale and the outliers."""
_ENOUGH = 8
"""Minimum number of waits for the estimate of a delay; with fewer waits the default is used."""


def fit_trace(path: Path, kv_tokens: int) -> tuple[Hardware, list[float]]:
    """Return the pipeline, and for each stage the mean relative error of the fitted times.

    Stage times follow the scheduler's own model (`gllm.engine.time_model`), scaled to the sum of the run: the model
    ignores outliers, which a simulated run must contain. The delays between stages are medians of the waits of idle
    stages; they contain transfers and wake-ups. The clocks of the stages must agree, as they do on one machine. Raises
    ValueError if a stage has no steps.
    """
    runs: dict[int, list[Slice]] = {}
    for piece in read_slices(path):
        runs.setdefault(piece.stage, []).append(piece)
    if not runs or sorted(runs) != list(range(len(runs))):
        raise ValueError(f"{path} lacks steps of some stages: it has stages {sorted(runs)}")
    stages = [sorted(runs[stage], key=lambda piece: piece.begin) for stage in sorted(runs)]
    models = [_fit(stage) for stage in stages]
    errors = [
        fmean(abs(model.cost.predict(piece.work) / piece.seconds - 1.0) for piece in stage if piece.seconds > 0.0)
        for stage, model in zip(stages, models, strict=True)
    ]
    usual = Hardware(stages=(), kv_tokens=0)
    jitter = _jitter(errors)
    hardware = Hardware(
        stages=tuple(_scaled(model, stage, jitter) for model, stage in zip(models, stages, strict=True)),
        kv_tokens=kv_tokens,
        transfer=_delay(_between_stages(stages), usual.transfer),
        transfer_per_token=0.0,
        feedback=_delay(_to_first_stage(stages), usual.feedback),
        jitter=jitter,
    )
    return hardware, errors


def _fit(steps: list[Slice]) -> StageModel:
    model = StageModel(forgetting=1.0)
    for _ in range(_ROUNDS):
        for piece in steps:
            model.observe(piece.work, piece.seconds)
    return model


def _scaled(model: StageModel, steps: list[Slice], jitter: float) -> StageTimes:
    """Return stage times, scaled to the run.

    A log-normal factor with deviation `jitter` has the mean exp(jitter^2 / 2).
    """
    predicted = sum(model.cost.predict(piece.work) for piece in steps) * math.exp(jitter**2 / 2)
    scale = sum(piece.seconds for piece in steps) / predicted if predicted > 0.0 else 1.0
    cost = model.cost
    return StageTimes(
        a=cost.a * scale, b=cost.b * scale, c=cost.c * scale, d=cost.d * scale, e=cost.e * scale, g=cost.g * scale
    )


def _between_stages(stages: list[list[Slice]]) -> list[float]:
    """Return the waits from the end of a step on one stage to its start on the next, if that stage was idle."""
    waits = []
    for before, after in pairwise(stages):
        ends = {piece.step: piece.end for piece in before}
        for previous, piece in pairwise(after):
            sent = ends.get(piece.step)
            if sent is not None and previous.end < sent <= piece.begin:
                waits.append(piece.begin - sent)
    return waits


def _to_first_stage(stages: list[list[Slice]]) -> list[float]:
    """Return the waits from the end of a step on the last stage to the next start on the first, if that was idle."""
    ends = [piece.end for piece in stages[-1]]
    waits = []
    for previous, piece in pairwise(stages[0]):
        index = bisect_right(ends, piece.begin) - 1
        if index >= 0 and previous.end < ends[index]:
            waits.append(piece.begin - ends[index])
    return waits


def _delay(waits: list[float], usual: float) -> float:
    return median(waits) if len(waits) >= _ENOUGH else usual


def _jitter(errors: list[float]) -> float:
    """Return the deviation that the model does not explain: 1.25 times the mean error, as for a normal distribution."""
    return min(1.25 * fmean(errors), 0.5)
