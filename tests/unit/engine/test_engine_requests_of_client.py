"""The live requests of a client over engines that come, fail and answer in any order: none is lost or doubled."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gllm.engine.client.requests import LiveRequests
from gllm.engine.client.resubmit import MAX_LOSSES, SUSPECT_LOSSES
from gllm.engine.client.stream import EngineError, OutputStream
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import RequestOutput

LENGTH = 5


class Link:
    """An engine that knows the next token of each request from the tokens that it was given."""

    def __init__(self, requests: LiveRequests) -> None:
        self.requests = requests
        self.sent: dict[OutputStream, list[int]] = {}

    def submit(self, stream: OutputStream) -> None:
        assert stream not in self.sent
        self.sent[stream] = stream.record.to_submit().token_ids

    def abort(self, stream: OutputStream) -> None:
        del self.sent[stream]

    def step(self, number: int) -> None:
        """Give the next token to one of the requests: a prompt [7] gets 8, 9, ..."""
        if not self.sent:
            return
        stream = list(self.sent)[number % len(self.sent)]
        tokens = self.sent[stream]
        tokens = self.sent[stream] = [*tokens, tokens[-1] + 1]
        ended = len(tokens) > LENGTH
        if ended:
            del self.sent[stream]
        output = RequestOutput(request_id="", token_ids=[tokens[-1]], finish_reason="length" if ended else None)
        stream.put(output)
        self.requests.on_output(stream, ended)


class World:
    def __init__(self) -> None:
        self.links: list[Link] = []
        self.requests = LiveRequests(self.choose)  # type: ignore[arg-type]
        self.streams: dict[int, OutputStream] = {}

    def choose(self, stream: OutputStream) -> Link | None:
        return min(self.links, key=lambda link: len(link.sent), default=None)

    def act(self, action: str, number: int) -> None:
        if action == "arrive":
            prompt = 100 * len(self.streams)
            sampling = SamplingParams(max_tokens=LENGTH)
            self.streams[prompt] = self.requests.add(str(prompt), [prompt], sampling, 0, "")
        elif action == "up" and len(self.links) < 3:
            self.links.append(Link(self.requests))
            self.requests.submit_waiting()
        elif action == "lost" and self.links:
            link = self.links.pop(number % len(self.links))
            self.requests.lose(link, "lost")  # type: ignore[arg-type]
            self.requests.submit_waiting()
        elif action == "step" and self.links:
            self.links[number % len(self.links)].step(number)
        placed = [stream for link in self.links for stream in link.sent]
        assert len(placed) == len(set(placed)), "two engines have one request"
        suspects = [stream for stream in placed if stream.record.suspect]
        assert len(suspects) <= 1, "suspects are tried one after another"


ACTIONS = st.lists(st.tuples(st.sampled_from(["arrive", "up", "lost", "step", "step", "step"]), st.integers(0, 9)))


@given(ACTIONS)
def test_each_request_gets_its_tokens_once(actions: list[tuple[str, int]]) -> None:
    async def main() -> None:
        world = World()
        for action, number in actions:
            world.act(action, number)
        world.act("up", 0)
        while any(link.sent for link in world.links):
            for link in world.links:
                link.step(0)
        assert len(world.requests) == 0, "a request waits although an engine serves"
        for prompt, stream in world.streams.items():
            try:
                tokens = [token async for output in stream for token in output.token_ids]
            except EngineError:
                assert stream.record.losses > MAX_LOSSES
            else:
                assert tokens == [prompt + n + 1 for n in range(LENGTH)]

    asyncio.run(main())


def test_a_request_whose_client_leaves_is_aborted_or_never_sent() -> None:
    async def main() -> None:
        world = World()
        world.act("arrive", 0)
        await world.streams[0].aclose()
        world.act("up", 0)
        assert not world.links[0].sent
        world.act("arrive", 0)
        stream: Any = world.streams[100]
        assert stream in world.links[0].sent
        await stream.aclose()
        assert not world.links[0].sent
        assert len(world.requests) == 0

    asyncio.run(main())


def test_suspects_fail_too_when_no_engine_serves_for_long() -> None:
    async def main() -> None:
        world = World()
        world.act("arrive", 0)
        for _ in range(SUSPECT_LOSSES):
            world.act("up", 0)
            world.act("lost", 0)
        assert world.streams[0].record.suspect
        world.requests.fail_waiting(-1.0, "no engine")
        assert len(world.requests) == 0
        world.act("up", 0)
        assert not world.links[0].sent
        assert world.requests.trial is None

    asyncio.run(main())


def test_suspects_that_wait_for_the_one_that_is_tried_do_not_fail() -> None:
    async def main() -> None:
        world = World()
        world.act("arrive", 0)
        world.act("arrive", 0)
        for _ in range(SUSPECT_LOSSES):
            world.act("up", 0)
            world.act("lost", 0)
        world.act("up", 0)
        assert len(world.links[0].sent) == 1
        world.requests.fail_waiting(-1.0, "no engine")
        assert len(world.requests) == 2

    asyncio.run(main())
