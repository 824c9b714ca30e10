"""Builds one micro-batch: the message for the workers, and the record that waits for its result."""

from __future__ import annotations

from dataclasses import dataclass

from gllm.engine.policies import ceil_div
from gllm.engine.queues import RunningSet
from gllm.engine.sequence import Sequence
from gllm.engine.time_model import Work, chunk_pairs
from gllm.wire.messages import NewSequence, SchedulerOutput


@dataclass(slots=True)
class MicroBatch:
    """A step in flight."""

    step: int
    rows: list[Sequence]
    sampled: list[Sequence]
    """Sequences of the rows that sample, in row order."""
    scored: list[Sequence]
    """Sequences that generate no token and have their last chunk in this step."""
    work: Work


class BatchBuilder:
    """Collects rows, decodes first, and updates the state of their sequences."""

    def __init__(self, running: RunningSet, step: int) -> None:
        self.step = step
        self.rows: list[Sequence] = []
        self._running = running
        self._slots: list[int] = []
        self._num_tokens: list[int] = []
        self._samples: list[bool] = []
        self._pages: list[tuple[int, list[int]]] = []
        self._new: list[NewSequence] = []
        self._sampled: list[Sequence] = []
        self._scored: list[Sequence] = []
        self._chunked: list[Sequence] = []
        self._prefill_tokens = 0
        self._decode_tokens = 0
        self._attention = 0.0
        self._decode_context = 0

    def add_decodes(self, chosen: list[Sequence], needy: list[Sequence]) -> None:
        """Add a row for each ready decode in `chosen`. Those in `needy` get a page; enough pages must be free."""
        running = self._running
        for seq in needy:
            self._pages.append((seq.slot, running.add_pages(seq, 1)))
        step = self.step
        slots = self._slots
        ending = []
        context = 0
        for seq in chosen:
            seq.num_scheduled = scheduled = seq.num_scheduled + 1
            seq.last_step = step
            context += scheduled
            slots.append(seq.slot)
            if scheduled + 1 >= seq.max_length:
                ending.append(seq)
        count = len(chosen)
        running.decode_context += count
        ready = running.ready
        if count == len(ready):
            ready.clear()
        else:
            for seq in chosen:
                del ready[seq]
        for seq in ending:
            running.end_decode(seq)
        self.rows += chosen
        self._sampled += chosen
        self._num_tokens += [1] * count
        self._samples += [True] * count
        self._decode_tokens += count
        self._decode_context += context

    def add_chunk(self, seq: Sequence, chunk: int, *, register: bool) -> None:
        """Add a row with the sequence's next `chunk` tokens; enough pages must be free.

        register: the sequence got its slot for this batch, and the workers do not know it yet.
        """
        running = self._running
        page_size = running.pool.page_size
        start = seq.num_scheduled
        end = start + chunk
        missing = ceil_div(end, page_size) - len(seq.pages)
        pages = running.add_pages(seq, missing) if missing > 0 else []
        if register:
            self._new.append(seq.registration(start, list(seq.pages)))
        elif pages:
            self._pages.append((seq.slot, pages))
        seq.num_scheduled = end
        seq.last_step = self.step
        self._chunked.append(seq)
        last = end == seq.prefill_end
        samples = last and not seq.scoring_only
        self.rows.append(seq)
        self._slots.append(seq.slot)
        self._num_tokens.append(chunk)
        self._samples.append(samples)
        self._prefill_tokens += chunk
        self._attention += chunk_pairs(start, chunk)
        if last:
            (self._sampled if samples else self._scored).append(seq)
            running.end_prefill(seq)

    @property
    def work(self) -> Work:
        """The work of the rows so far."""
        return Work(
            prefill_tokens=self._prefill_tokens,
            decode_rows=self._decode_tokens,
            attention=self._attention,
            decode_context=self._decode_context,
            sampled_rows=len(self._sampled),
        )

    def micro_batch(self) -> MicroBatch:
        return MicroBatch(
            step=self.step,
            rows=self.rows,
            sampled=self._sampled,
            scored=self._scored,
            work=self.work,
        )

    def scheduler_output(self, epoch: int) -> SchedulerOutput:
        """Return the message for the workers, with the slots freed since the last one.

        The pages that its chunks fill enter the prefix cache only now. So a row finds only pages of earlier steps, and
        workers may compute the rows of a step in any order.
        """
        for seq in self._chunked:
            self._running.register_full_pages(seq)
        freed, self._running.freed = self._running.freed, []
        return SchedulerOutput(
            epoch=epoch,
            step=self.step,
            slots=self._slots,
            num_tokens=self._num_tokens,
            samples=self._samples,
            pages=self._pages,
            new=self._new,
            freed=freed,
        )
