"""A worker without a model: it runs steps against a real page store, so that a wrong page changes the tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from gllm.engine.kv_pages import root_digest
from gllm.engine.sequence import Sequence
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import SchedulerOutput, StepResult, TokenLogprob

VOCAB = 50
EOS = 7


def next_token(token_ids: list[int]) -> int:
    """The fake model: the next token depends on all earlier tokens."""
    return hash(tuple(token_ids)) % VOCAB


def generate(prompt: list[int], sampling: SamplingParams, max_model_len: int) -> list[int]:
    """Return the expected tokens of a request, computed without a scheduler."""
    tokens = list(prompt)
    most = max_model_len if sampling.max_tokens is None else min(max_model_len, len(prompt) + sampling.max_tokens)
    while len(tokens) < most:
        tokens.append(next_token(tokens))
        if tokens[-1] in sampling.stop_token_ids and len(tokens) - len(prompt) >= sampling.min_tokens:
            break
    return tokens[len(prompt) :]


def make_sequence(
    request_id: str,
    prompt: list[int],
    *,
    max_model_len: int = 1024,
    priority: int = 0,
    salt: str = "",
    client: bytes = b"client",
    **sampling: object,
) -> Sequence:
    params = SamplingParams(**{"seed": 0, "stop_token_ids": (EOS,), "max_tokens": 8, **sampling})
    return Sequence(
        request_id,
        prompt,
        params,
        max_model_len=max_model_len,
        priority=priority,
        root=root_digest(salt),
        client=client,
    )


@dataclass
class Slot:
    tokens: list[int]
    num_prompt: int
    num_computed: int
    pages: list[int]
    sampling: SamplingParams
    has_sampled: bool = False


@dataclass
class FakeWorker:
    """Executes steps in order and asserts everything that a real worker relies on."""

    num_pages: int
    page_size: int
    max_num_seqs: int
    slots: dict[int, Slot] = field(default_factory=dict)
    store: dict[tuple[int, int], int] = field(default_factory=dict)
    """(page, offset) -> token."""
    last_step: int = 0
    decode_slots: set[int] = field(default_factory=set)
    """Slots of the last step that continue from a token sampled here."""

    def execute(self, scheduled: SchedulerOutput) -> StepResult:
        assert scheduled.step == self.last_step + 1
        self.last_step = scheduled.step
        for freed in scheduled.freed:
            del self.slots[freed]
        for new in scheduled.new:
            assert new.slot not in self.slots
            assert 0 <= new.slot < self.max_num_seqs
            assert new.sampling.seed is not None
            assert 0 <= new.num_computed_tokens < len(new.token_ids)
            self.slots[new.slot] = Slot(
                list(new.token_ids), new.num_prompt_tokens, new.num_computed_tokens, list(new.pages), new.sampling
            )
            assert self.context(new.slot, new.num_computed_tokens) == new.token_ids[: new.num_computed_tokens]
        for slot_id, pages in scheduled.pages:
            self.slots[slot_id].pages += pages
        self.check_pages()

        assert scheduled.slots
        assert len(scheduled.slots) == len(scheduled.num_tokens) == len(scheduled.samples)
        assert len(set(scheduled.slots)) == len(scheduled.slots)
        decode_rows = [self.slots[slot].has_sampled for slot in scheduled.slots]
        self.decode_slots = {slot for slot, decode in zip(scheduled.slots, decode_rows, strict=True) if decode}
        assert decode_rows == sorted(decode_rows, reverse=True), "decode rows come first"
        result = StepResult(epoch=scheduled.epoch, step=scheduled.step, token_ids=[], elapsed=0.001)
        logprobs: list[TokenLogprob | None] = []
        for row, (slot_id, count, samples) in enumerate(
            zip(scheduled.slots, scheduled.num_tokens, scheduled.samples, strict=True)
        ):
            slot = self.slots[slot_id]
            start, end = slot.num_computed, slot.num_computed + count
            assert count >= 1
            assert end <= len(slot.tokens)
            assert end <= len(slot.pages) * self.page_size, "the block table is too short"
            for position in range(start, end):
                page, offset = slot.pages[position // self.page_size], position % self.page_size
                self.store[page, offset] = slot.tokens[position]
            slot.num_computed = end
            if slot.sampling.prompt_logprobs is not None and start < slot.num_prompt:
                scored = slot.tokens[start + 1 : min(end + 1, slot.num_prompt)]
                result.prompt_logprobs = [*result.prompt_logprobs, (row, [self.logprob(token) for token in scored])]
            if samples:
                assert end == len(slot.tokens)
                token = next_token(self.context(slot_id, end))
                slot.tokens.append(token)
                slot.has_sampled = True
                result.token_ids.append(token)
                logprobs.append(self.logprob(token) if slot.sampling.logprobs is not None else None)
        if any(entry is not None for entry in logprobs):
            result.logprobs = logprobs
        return result

    def context(self, slot_id: int, length: int) -> list[int]:
        pages = self.slots[slot_id].pages
        return [self.store[pages[i // self.page_size], i % self.page_size] for i in range(length)]

    def check_pages(self) -> None:
        """Check that slots share only full pages with equal tokens."""
        owners: dict[int, tuple[int, list[int]]] = {}
        for slot in self.slots.values():
            for index, page in enumerate(slot.pages):
                assert 0 <= page < self.num_pages
                end = (index + 1) * self.page_size
                if page in owners:
                    assert len(slot.tokens) >= end
                    assert owners[page] == (index, slot.tokens[:end])
                owners[page] = (index, slot.tokens[:end])

    @staticmethod
    def logprob(token: int) -> TokenLogprob:
        return TokenLogprob(token_id=token, logprob=-float(token), rank=1, top=[])
