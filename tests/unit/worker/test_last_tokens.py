"""The first stage receives sampled tokens in order, only when it must, and each row gets its own."""

from __future__ import annotations

import random
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm.parallel.stage_link import Loopback
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import NewSequence, SchedulerOutput
from gllm.worker.last_tokens import LastTokens
from gllm.worker.slots import SlotTable
from gllm.worker.step_batch import build_batch

SLOTS = 5
PARAMS = SamplingParams(seed=0)


class Link:
    """The sent messages of the last stage; a receive of one that is not sent yet fails, as it would wait for ever."""

    def __init__(self) -> None:
        self.sent: deque[torch.Tensor] = deque()
        self.num_received = 0

    def receive(self, num_rows: int) -> torch.Tensor:
        self.num_received += 1
        rows = self.sent.popleft()
        assert len(rows) == num_rows
        return rows


class FirstStage:
    """Runs rows of one token each, as the first stage would; `sample` then plays the last stage."""

    def __init__(self, most_in_flight: int) -> None:
        self.link = Link()
        self.table = SlotTable(SLOTS, max_model_len=400, page_size=400)
        self.last_tokens = LastTokens(SLOTS, most_in_flight, self.link, torch.device("cpu"))
        self.step = 0

    def launch(self, slots: list[int], *, new: dict[int, int] | None = None, freed: list[int] | None = None) -> list:
        """Run a row for each slot. new: the only token of the sequences that begin in a slot. Returns the inputs."""
        self.step += 1
        scheduled = SchedulerOutput(
            epoch=0,
            step=self.step,
            slots=slots,
            num_tokens=[1] * len(slots),
            samples=[True] * len(slots),
            pages=[],
            new=[
                NewSequence(
                    slot=slot, token_ids=[token], num_prompt_tokens=1, num_computed_tokens=0, pages=[0], sampling=PARAMS
                )
                for slot, token in (new or {}).items()
            ],
            freed=freed or [],
        )
        self.table.apply(scheduled)
        return self.last_tokens.inputs(build_batch(scheduled, self.table)).tolist()

    def sample(self, *tokens: int) -> None:
        self.link.sent.append(torch.tensor(tokens))


def test_tokens_are_received_only_when_a_row_needs_them() -> None:
    stage = FirstStage(most_in_flight=3)
    assert stage.launch([0], new={0: 10}) == [10]
    assert stage.launch([1], new={1: 20}) == [20]
    stage.sample(11)
    assert stage.launch([0]) == [11]
    assert stage.link.num_received == 1, "the tokens of step 2 are not there yet, and no row needs them"
    stage.sample(21)
    stage.sample(12)
    assert stage.launch([1, 0]) == [21, 12]
    assert stage.link.num_received == 3


def test_tokens_that_no_row_needs_are_received_when_they_must_have_been_sent() -> None:
    """Otherwise the last stage would wait for ever to send more of them."""
    stage = FirstStage(most_in_flight=3)
    for step in range(1, 12):
        stage.launch([0], new={0: step}, freed=[0] if step > 1 else [])
        stage.sample(100 + step)
        assert stage.link.num_received == max(step - 3, 0)
        assert len(stage.link.sent) <= 3


def test_a_new_sequence_in_a_slot_never_reads_the_token_of_the_last_one() -> None:
    stage = FirstStage(most_in_flight=3)
    stage.launch([0], new={0: 10})
    stage.launch([0], new={0: 20}, freed=[0])  # the first sequence was aborted; its token is still on its way
    stage.sample(11)
    stage.sample(21)
    assert stage.launch([0]) == [21]


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), pp=st.integers(1, 4))
def test_any_order_of_steps_and_results(seed: int, pp: int) -> None:
    """Up to pp + 1 steps in flight; rows end and their slots are reused at any time."""
    random_ = random.Random(seed)
    stage = FirstStage(most_in_flight=pp + 1)
    known: dict[int, tuple[int, int]] = {}
    """slot -> (its next input, the step that samples it; 0: it is a prompt)"""
    in_flight: deque[list[int]] = deque()
    """What the last stage will sample in each step that it has not run yet."""

    def sample_until(step: int) -> None:
        while stage.step - len(in_flight) < step:
            stage.sample(*in_flight.popleft())

    for _ in range(60):
        sample_until(stage.step + random_.randint(-pp, 0))
        slots = random_.sample(range(SLOTS), random_.randint(1, SLOTS))
        new = {slot: random_.randrange(1000) for slot in slots if slot not in known or random_.random() < 0.3}
        slots.sort(key=lambda slot: slot in new)
        freed = [slot for slot in new if slot in known]
        known |= {slot: (token, 0) for slot, token in new.items()}
        sample_until(max(known[slot][1] for slot in slots))  # what the rows wait for; no other token may be needed
        assert stage.launch(slots, new=new, freed=freed) == [known[slot][0] for slot in slots]
        tokens = [random_.randrange(1000) for _ in slots]
        in_flight.append(tokens)
        known |= {slot: (token, stage.step) for slot, token in zip(slots, tokens, strict=True)}


def test_the_link_of_one_stage_is_a_queue() -> None:
    link = Loopback()
    link.send(torch.tensor([1]))
    link.send(torch.tensor([2, 3]))
    assert link.receive(1).tolist() == [1]
    with pytest.raises(AssertionError):
        link.receive(1)
