"""Learns the times of stages while serving. Pure: no clock, no I/O, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from operator import mul

from gllm.engine.time_model import KNEE, PRIOR, Cost, Work

_PRIOR_TOKEN_SECONDS = 1e-4
_PRIOR_VECTOR = (PRIOR.a, PRIOR.b, PRIOR.c, PRIOR.d, PRIOR.e, PRIOR.g)
_SCALE = (PRIOR.a, PRIOR.prefill_token, PRIOR.c, PRIOR.d, PRIOR.e, PRIOR.prefill_token)
"""The size that each coefficient may be expected to have."""

_TERMS = len(_PRIOR_VECTOR)
_COLUMNS = range(_TERMS)
_PAIRS = {pair: index for index, pair in enumerate(combinations_with_replacement(_COLUMNS, 2))}

_FORGETTING = 0.995
"""Factor of a step's weight per later step of its kind: about the last two hundred steps of each kind count."""
_OTHER_KINDS = 5
"""A step of another kind makes a step forget so many times less: the machine may have changed, too."""
_LONG_CONTEXT = 1024
"""Mean context, in tokens, from which a chunk tells what attention costs."""
_DAMPING = 0.02
"""Resistance of a coefficient to change, in units of one step's evidence."""
_HUBER = 2.0
"""Residuals above this multiple of the mean residual get less weight, in inverse proportion."""
_SOLVE_EVERY = 8
_CONVERGED = 128
"""Number of steps after which the model is solved only a quarter as often."""
_SWEEPS = 12
_STILL = 1e-5
"""Sweeps end when no coefficient changes by more than this share of its prior."""
_SHORTEST_STEP, _LONGEST_STEP = 1e-7, 3600.0
_MOST_FREE_TOKENS = 1024
"""A token costs at least an empty step, or its prior, divided by this."""


class _Evidence:
    """The normal equations of the steps of one kind, and how well they are predicted."""

    def __init__(self) -> None:
        self.gram = [0.0] * len(_PAIRS)
        """Upper triangle of the matrix, row by row."""
        self.moment = [0.0] * _TERMS
        self.share = 1.0
        """The weight that the steps have now, as a share of their weight in `gram` and `moment`."""
        self.residual = 1.0
        """Running mean of relative errors."""
        self.steps = 0

    def weight(self, distance: float) -> float:
        """Count a step with this relative error. Returns its weight by Huber's rule."""
        self.steps += 1
        limit = _HUBER * self.residual
        # The mean clips residuals: otherwise, after one long stall, the next ten stalls would count as normal.
        self.residual += _rate(self.steps) * (min(distance, 3.0 * self.residual) - self.residual)
        self.residual = max(self.residual, 1e-3)
        return 1.0 if distance <= limit else limit / distance

    @property
    def due(self) -> bool:
        """Whether the model should be solved after the newest step."""
        every = _SOLVE_EVERY if self.steps < _CONVERGED else 4 * _SOLVE_EVERY
        return self.steps < _SOLVE_EVERY or self.steps % every == 0

    def add(self, terms: tuple[float, ...], weight: float) -> None:
        """Add a step, divided by its time."""
        pairs = combinations_with_replacement(terms, 2)
        keep, self.share = self.share, 1.0
        self.gram = [keep * old + weight * one * other for old, (one, other) in zip(self.gram, pairs, strict=True)]
        self.moment = [keep * old + weight * own for old, own in zip(self.moment, terms, strict=True)]


class StageModel:
    """Recursive least squares of one stage's times on the terms above.

    * Errors are relative (each step is divided by its own time), so that short steps count as much as long ones.
    * There are three kinds of steps: decodes only, prefill, and prefill at a long context. Each kind forgets, and
      judges outliers, mostly by itself. Otherwise a thousand decodes erase what prefill costs, and since their times
      hardly vary, the next prompt looks like an outlier.
    * Old steps lose weight exponentially (Ljung, System Identification, 11.2): the model follows clocks and load.
    * Outliers get less weight by Huber's rule, relative to a running mean of residuals; if all residuals grow, the mean
      grows too and the model follows.
    * Coefficients are non-negative: coordinate descent on the normal equations, from the last solution (Franc, Hlavac,
      Navara, CAIP 2005).
    * Where there is no data, a solution stays close to the last one (a proximal step). Before the first solution it is
      the prior, scaled by the first step.
    """

    def __init__(self, forgetting: float = _FORGETTING) -> None:
        self._forgetting = forgetting
        self._decodes, self._prefill, self._long_context = self._kinds = (_Evidence(), _Evidence(), _Evidence())
        self._coefficients = [_PRIOR_TOKEN_SECONDS * value for value in _PRIOR_VECTOR]
        self._scale = [_PRIOR_TOKEN_SECONDS * value for value in _SCALE]
        self.steps = 0
        self.error = 0.0
        """Running mean of |predicted - measured| / measured; each prediction precedes its measurement."""
        self.cost = Cost(*self._coefficients)

    def observe(self, work: Work, elapsed: float) -> bool:
        """Learn from a step. Returns False if it is invalid: not finite, not above zero, over an hour, or no tokens."""
        if not _SHORTEST_STEP < elapsed < _LONGEST_STEP or work.tokens < 1:
            return False
        if self.steps == 0:
            self._start(work, elapsed)
        self.steps += 1
        distance = abs(self.cost.predict(work) / elapsed - 1.0)
        self.error += _rate(self.steps) * (min(distance, 10.0) - self.error)
        kind = self._kind(work)
        for other in self._kinds:
            other.share *= self._forgetting if other is kind else 1.0 - (1.0 - self._forgetting) / _OTHER_KINDS
        kind.add(_terms(work, 1.0 / elapsed), kind.weight(distance))
        if kind.due:
            self._solve()
        return True

    def _kind(self, work: Work) -> _Evidence:
        if not work.prefill_tokens:
            return self._decodes
        return self._long_context if work.attention > _LONG_CONTEXT * work.prefill_tokens else self._prefill

    def _start(self, work: Work, elapsed: float) -> None:
        """Scale the prior so that it explains the first step."""
        scale = elapsed / PRIOR.predict(work)
        self._coefficients = [scale * value for value in _PRIOR_VECTOR]
        self._scale = [scale * value for value in _SCALE]
        self.cost = Cost(*self._coefficients)

    def _solve(self) -> None:
        """Minimise sum of weighted squared relative errors + damping * ((x - last x) / scale)^2 over x >= 0."""
        last = self._coefficients
        x = list(last)
        damping = [_DAMPING / (scale * scale) for scale in self._scale]
        shares = [kind.share for kind in self._kinds]
        entries = [sum(map(mul, shares, of_kinds)) for of_kinds in zip(*(k.gram for k in self._kinds), strict=True)]
        moment = [sum(map(mul, shares, of_kinds)) for of_kinds in zip(*(k.moment for k in self._kinds), strict=True)]
        gram = [[entries[_PAIRS[min(row, column), max(row, column)]] for column in _COLUMNS] for row in _COLUMNS]
        for _ in range(_SWEEPS):
            moved = 0.0
            for index, line in enumerate(gram):
                own = line[index] + damping[index]
                rest = sum(map(mul, line, x))
                now = x[index]
                better = now + (moment[index] - rest + damping[index] * (last[index] - now)) / own
                x[index] = better = better if better > 0.0 else 0.0
                moved = max(moved, abs(better - now) / self._scale[index])
            if moved < _STILL:
                break
        self._coefficients = x
        a, b, c, d, e, g = x
        # While a GPU is bound by memory, tokens seem to cost nothing; but a long prompt does.
        b = max(b, self._scale[1] / _MOST_FREE_TOKENS)
        self.cost = Cost(a, b, c, d, e, max(g, a / _MOST_FREE_TOKENS - b))


def _rate(steps: int) -> float:
    """Return the share of the newest of `steps` steps in a running mean."""
    return max(0.02, 1.0 / (steps + 1))


def _terms(work: Work, inverse: float) -> tuple[float, ...]:
    """Return the terms of the model for a step, times `inverse`."""
    tokens = work.tokens
    return (
        inverse,
        inverse * tokens,
        inverse * work.attention,
        inverse * work.decode_context,
        inverse * work.sampled_rows,
        inverse * max(tokens - KNEE, 0),
    )


class TimeModel:
    """One model per stage, and the cost of the slowest stage, which determines the pipeline's throughput."""

    def __init__(self, pp: int) -> None:
        self.stages = [StageModel() for _ in range(pp)]
        self.cost = self.stages[0].cost
        """Cost of the stage that was slowest for a recent micro-batch."""
        self._since = 0

    def observe(self, stage: int, work: Work, elapsed: float) -> None:
        """Learn the time of a micro-batch on a stage, in seconds."""
        if not self.stages[stage].observe(work, elapsed):
            return
        self._since += 1
        if self._since >= _SOLVE_EVERY or self.stages[stage].steps < _SOLVE_EVERY:
            self._since = 0
            self.cost = self.slowest(work)

    def slowest(self, work: Work) -> Cost:
        """Return the cost of the measured stage that takes longest for this micro-batch."""
        measured: Sequence[StageModel] = [stage for stage in self.stages if stage.steps] or self.stages
        return max(measured, key=lambda stage: stage.cost.predict(work)).cost

    def predict(self, work: Work) -> float:
        """Return the seconds of the slowest stage."""
        return self.slowest(work).predict(work)
