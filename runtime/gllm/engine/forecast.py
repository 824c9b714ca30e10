"""When a prompt that arrives now gets its first token, from the queues and the measured times of steps."""

from __future__ import annotations

from gllm.engine.meter import Meter
from gllm.engine.policies import Limits
from gllm.engine.policies.bound import prefill_room
from gllm.engine.queues import RunningSet, WaitingQueue
from gllm.engine.snapshot import waiting_tokens
from gllm.engine.time_model import Work, chunk_pairs
from gllm.wire.forecast import PrefillForecast


def forecast(limits: Limits, queue: WaitingQueue, running: RunningSet, meter: Meter) -> PrefillForecast:
    """Predict prefill as the work that fits into steps beside the running decodes.

    A step computes `room` seconds of prefill beside `base` seconds of decodes and of its own cost, so prefill takes
    (base + room) / room times as long as alone. At the end the last step passes all stages. It is not predicted when
    running requests free their pages and slots.
    """
    if not any(stage.steps for stage in meter.times.stages):
        return PrefillForecast()
    cost, pp = meter.times.cost, limits.pp
    most = cost.prefill(limits.max_prefill_tokens, 0.0)
    rows = -(-running.num_decoding // pp)
    if rows:
        decodes = Work(decode_rows=rows, decode_context=running.decode_context // pp, sampled_rows=rows)
        base = cost.predict(decodes)
        room = min(prefill_room(limits, base), most)
    else:
        base, room = cost.prefill_step, most
    stretch = (base + room) / room
    tokens = waiting_tokens(queue, running)
    pairs = queue.pairs + sum(chunk_pairs(seq.num_scheduled, seq.num_uncomputed) for seq in running.prefilling)
    return PrefillForecast(
        waiting=cost.prefill(tokens, pairs) * stretch + pp * base,
        token=cost.prefill_token * stretch,
        pair=cost.c * stretch,
    )
