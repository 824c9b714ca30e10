"""Measure the engine's time for a step: `python benchmarks/scheduler_step.py`.

The scheduler runs with an instant worker, at steady decode with pp + 1 steps in flight. The program prints milliseconds
for scheduling and building the scheduler output, for encoding it for the workers, for decoding and processing the
result with the stages' reports, and for building and encoding the outputs for the gateway. With pp > 1 a step has a
share of the running requests. New requests replace finished ones, so the figures include admission, prefill, pages and
the prefix cache.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import deque
from collections.abc import Callable

from gllm.config import POLICY_NAMES, EngineConfig, PolicyName
from gllm.engine.kv_pages import PagePool, root_digest
from gllm.engine.loop import freeze_gc
from gllm.engine.scheduler import Scheduler
from gllm.engine.sequence import Sequence
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import RequestOutputs, SchedulerOutput, StageReport, StepResult, WorkerToEngine
from gllm.wire.transport import decoder, encode

VOCAB = 32_000
PHASES = ("schedule", "encode", "process_result", "outputs", "total")


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Load:
    """Keep `running` requests alive."""

    def __init__(self, running: int, policy: PolicyName, pp: int) -> None:
        config = EngineConfig(model="", max_num_seqs=running, policy=policy, max_prefill_tokens=8192)
        pool = PagePool(running * 96, config.page_size)
        self.scheduler = Scheduler(config, pool, max_model_len=1400, pp=pp)
        self.random = random.Random(0)
        self.running = running
        self.added = 0
        self.live = 0

    def refill(self) -> None:
        while self.live < self.running:
            prompt = [self.random.randrange(VOCAB) for _ in range(self.random.randint(64, 320))]
            sampling = SamplingParams(max_tokens=self.random.randint(128, 640), seed=1, stop_token_ids=(VOCAB,))
            self.scheduler.add(
                Sequence(str(self.added), prompt, sampling, max_model_len=1400, root=root_digest(""), client=b"gateway")
            )
            self.added += 1
            self.live += 1


def report(output: SchedulerOutput, stage: int) -> StageReport:
    elapsed = 0.01 + 1e-4 * sum(output.num_tokens)
    return StageReport(epoch=output.epoch, step=output.step, stage=stage, started=0.0, elapsed=elapsed)


def measure(
    running: int, steps: int, policy: PolicyName, pp: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of each phase in each step, without steps that have less than a full share of the requests."""
    load = Load(running, policy, pp)
    scheduler = load.scheduler
    decode = decoder(WorkerToEngine).decode
    in_flight: deque[SchedulerOutput] = deque()
    times: dict[str, list[float]] = {phase: [] for phase in PHASES}
    while len(times["total"]) < steps:
        load.refill()
        # Later steps are always in flight, as with busy workers; earlier rounds of this loop timed their scheduling.
        marks = [clock()]
        output = scheduler.schedule()
        marks.append(clock())
        if output is not None:
            encode(output)
            in_flight.append(output)
        marks.append(clock())
        if len(in_flight) <= pp:
            if output is None:  # The first stages are full: the oldest step goes on to the last stage.
                scheduler.observe(report(in_flight[0], pp - 2))
            continue
        done = in_flight.popleft()
        tokens = [load.random.randrange(VOCAB) for samples in done.samples if samples]
        payload = encode(StepResult(epoch=done.epoch, step=done.step, token_ids=tokens, elapsed=0.01))
        # When the last stage has a result, the stage before it has passed the next step on.
        reports = [encode(report(in_flight[0] if stage == pp - 2 else done, stage)) for stage in range(pp)]
        marks.append(clock())
        for message in reports:
            scheduler.observe(decode(message))
        outputs = scheduler.process_result(decode(payload))
        marks.append(clock())
        for entries in outputs.values():
            load.live -= sum(entry.finish_reason is not None for entry in entries)
            encode(RequestOutputs(entries, scheduler.stats()))
        marks.append(clock())
        if output is not None and len(output.slots) >= 0.9 * running / pp:
            spent = [marks[1] - marks[0], marks[2] - marks[1], marks[4] - marks[3], marks[5] - marks[4]]
            for phase, seconds in zip(PHASES, [*spent, sum(spent)], strict=True):
                times[phase].append(seconds)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--running", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--pp", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, which excludes other processes")
    parser.add_argument("--policy", choices=POLICY_NAMES, default="balanced")
    arguments = parser.parse_args()
    clock = time.thread_time if arguments.cpu_time else time.perf_counter
    freeze_gc()
    print(f"{'running':>8}" + "".join(f"{phase + ' p50/p99':>24}" for phase in PHASES) + "   (ms)")
    for running in arguments.running:
        times = measure(running, arguments.steps, arguments.policy, arguments.pp, clock)
        cells = (
            f"{1e3 * percentile(times[phase], 0.5):.3f} / {1e3 * percentile(times[phase], 0.99):.3f}"
            for phase in PHASES
        )
        print(f"{running:>8}" + "".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    main()
