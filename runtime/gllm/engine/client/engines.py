"""The client of several engines on other machines: it finds them, chooses one for each request, and survives each."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Sequence
from functools import partial

import zmq.asyncio

from gllm import __version__
from gllm.config import Routing, tcp_address
from gllm.engine.client.link import EngineLink, EventsHandler
from gllm.engine.client.prefixes import cached_tokens
from gllm.engine.client.requests import LiveRequests
from gllm.engine.client.routing import EngineLoad, choose_engine, next_in_turn
from gllm.engine.client.stream import EngineError, OutputStream
from gllm.sampling_params import SamplingParams
from gllm.wire.curve import Keys
from gllm.wire.messages import EngineStats, Hello
from gllm.wire.origin import NO_ORIGIN, Origin
from gllm.wire.pipeline_events import PipelineEvents

logger = logging.getLogger("gllm.engine.client")

_RESOLVE_SECONDS = 2.0
_RETRY_SECONDS = 0.5
_GREET_SECONDS = 5.0
"""An engine that loads answers later than that; then the next attempt waits for it."""
_CHECK_SECONDS = 0.5


class RemoteEngines:
    """The interface of `EngineClient` over any number of engines of one model.

    places: HOST:PORT of engines. A name with several addresses (a headless Service) means an engine at each; names are
    resolved again and again. model: the digest of the model's configuration; engines with another one are refused.
    wait_seconds: the time that a request waits while no engine serves. long_rope_from: `RopeConfig.switches_at`.
    """

    def __init__(
        self,
        places: Sequence[tuple[str, int]],
        keys: Keys,
        *,
        model: str,
        wait_seconds: float,
        routing: Routing = "prefix",
        long_rope_from: int | None = None,
    ) -> None:
        self.limits: Hello | None = None
        """The limits of the engines that serve, or of those that served last."""
        self.on_events: EventsHandler = lambda name, events, stats: None
        """Gets what `watch` asks for, with the engine's HOST:PORT."""
        self.resubmitted = 0
        """Requests that another engine has continued."""
        self._places = places
        self._keys = keys
        self._model = model
        self._wait_seconds = wait_seconds
        self._routing = routing
        self._long_rope_from = long_rope_from
        self._links: dict[tuple[str, int], EngineLink] = {}
        """The engines that serve."""
        self._unresolved: dict[tuple[str, int], str] = {}
        """Why a place has no address."""
        self._problems: dict[tuple[str, int], str] = {}
        """Why the engine at an address does not serve."""
        self._unusable: set[tuple[str, int]] = set()
        """Engines that serve, and that this gateway cannot use."""
        self._tried: set[tuple[str, int]] = set()
        """Addresses at which an engine has answered, or did not."""
        self._looked = False
        """Whether each engine that was there at the start has been tried."""
        self._requests = LiveRequests(self._choose)
        self._turn = itertools.count()
        self._served = asyncio.Event()
        self._addresses: set[tuple[str, int]] = set()
        self._followers: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._context: zmq.asyncio.Context | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look for engines."""
        self._context = zmq.asyncio.Context()
        self._tasks = [asyncio.create_task(self._find()), asyncio.create_task(self._fail_late())]

    async def serving(self) -> Hello:
        """Wait until an engine has served."""
        await self._served.wait()
        assert self.limits is not None
        return self.limits

    @property
    def may_come(self) -> bool:
        """Whether the next engine is worth waiting for: those that serve, if any, are not for other gateways."""
        return self._looked and not self._unusable

    # --- the interface of EngineClient -----------------------------------------------------------------

    @property
    def hello(self) -> Hello | None:
        """The limits of all engines that serve together; None if there is none."""
        hellos = [link.hello for link in self._links.values() if link.hello is not None]
        return combined(hellos) if hellos else None

    @property
    def stats(self) -> EngineStats:
        """Empty: each group exports the figures of its own engine, and restarts it when it hangs."""
        return EngineStats()

    @property
    def last_message_time(self) -> float:
        return max((link.last_message_time for link in self._links.values()), default=0.0)

    @property
    def num_live(self) -> int:
        return len(self._requests)

    def generate(
        self,
        request_id: str,
        token_ids: list[int],
        sampling: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str = "",
        origin: Origin = NO_ORIGIN,
    ) -> OutputStream:
        """Submit a request to an engine and return its outputs. It waits while no engine serves.

        Raises ValueError if `request_id` is live. Raises EngineError if no engine has ever served.
        """
        if self.limits is None:
            raise EngineError(self.problem())
        return self._requests.add(request_id, token_ids, sampling, priority, cache_salt, origin)

    def leave(self) -> None:
        """The engines stay when this gateway leaves."""

    def watch(self, seconds: float) -> dict[str, Hello]:
        """Ask for events of the pipelines for some time. Returns the engines that will send them, by HOST:PORT."""
        found = {}
        for (host, port), link in self._links.items():
            if link.hello is not None:
                link.watch(seconds)
                found[f"{host}:{port}"] = link.hello
        return found

    async def idle(self) -> None:
        """Return at once: nothing has to wait for requests of other gateways."""

    def engine_down(self, reason: str) -> None:
        """Let all requests fail: this process ends."""
        self._requests.fail_all(reason)

    async def close(self) -> None:
        self.engine_down("the engine client was closed")
        tasks = [*self._tasks, *self._followers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    def problem(self) -> str:
        """Return why there is no engine."""
        found = self._unresolved | self._problems or dict.fromkeys(self._places, "no answer yet")
        known = sorted(f"{host}:{port}: {reason}" for (host, port), reason in found.items())
        return "no engine serves; " + "; ".join(known)

    def known(self) -> dict[str, int | None]:
        """Return the number of requests that each known engine has, by its address; None: it does not serve."""
        links = {one: self._links.get(one) for one in sorted(self._addresses)}
        return {f"{host}:{port}": None if link is None else len(link.sent) for (host, port), link in links.items()}

    # --- engines ---------------------------------------------------------------------------------------

    async def _find(self) -> None:
        """Follow every address of the places, and forget those that are gone."""
        while True:
            found = set()
            for host, port in self._places:
                try:
                    found |= await _addresses(host, port)
                    self._unresolved.pop((host, port), None)
                except OSError as error:
                    self._unresolved[host, port] = f"{error.strerror or error}"
                    found |= {one for one in self._links if one[1] == port}  # DNS may fail while engines serve.
            self._addresses = found
            self._looked = self._looked or found <= self._tried
            self._followers = {address: task for address, task in self._followers.items() if not task.done()}
            for address in found - self._followers.keys():
                self._followers[address] = asyncio.create_task(self._follow(address))
            await asyncio.sleep(_RESOLVE_SECONDS)

    async def _follow(self, address: tuple[str, int]) -> None:
        """Use the engine at an address whenever it serves, until the address is gone."""
        assert self._context is not None
        while address in self._addresses:
            link = EngineLink(
                self._context,
                tcp_address(*address),
                keys=self._keys,
                on_output=self._requests.on_output,
                on_events=partial(self._take_events, f"{address[0]}:{address[1]}"),
            )
            try:
                hello = await link.greet(_GREET_SECONDS)
                self._unusable.add(address)
                self._check(hello)
                self._unusable.discard(address)
                self._problems.pop(address, None)
                logger.warning("engine connected", extra={"engine": link.address, "epoch": hello.epoch})
                self._links[address] = link
                self.limits = self.hello
                self._served.set()
                self._requests.submit_waiting()
                reason = await link.lost()
                logger.warning("engine lost", extra={"engine": link.address, "reason": reason, "live": len(link.sent)})
            except EngineError as error:
                reason = str(error)
                if link.hello is None:
                    self._unusable.discard(address)
                if self._problems.get(address) != reason:
                    logger.warning("no engine", extra={"engine": link.address, "reason": reason})
            finally:
                self._tried.add(address)
                link.close()
                lost = self._links.pop(address, None)
            self._problems[address] = reason
            if lost is not None:
                self.limits = self.hello or self.limits
                self.resubmitted += len(link.sent)
                self._requests.lose(link, reason)
                self._requests.submit_waiting()
            await asyncio.sleep(_RETRY_SECONDS)
        self._problems.pop(address, None)
        self._unusable.discard(address)
        self._tried.discard(address)

    def _take_events(self, name: str, events: PipelineEvents, stats: EngineStats) -> None:
        self.on_events(name, events, stats)

    def _check(self, hello: Hello) -> None:
        """Raise EngineError if requests could not continue on this engine as on the others."""
        if hello.version != __version__:
            raise EngineError(f"it runs gLLM {hello.version}, and this gateway {__version__}: use one version")
        if hello.model != self._model:
            raise EngineError("it serves another model: the configurations differ")

    def _choose(self, stream: OutputStream) -> EngineLink | None:
        links = list(self._links.values())
        if len(links) < 2:
            return links[0] if links else None
        if self._routing == "round-robin":
            index = next_in_turn([link.hello is not None and link.hello.leaving for link in links], next(self._turn))
            return None if index is None else links[index]
        token_ids, root = stream.record.token_ids, stream.record.root(self._long_rope_from)
        cached: dict[EngineLink, int] = {}
        for size in {link.hello.page_size for link in links if link.hello is not None}:
            alike = [link for link in links if link.hello is not None and link.hello.page_size == size]
            cached |= dict(zip(alike, cached_tokens(token_ids, root, size, [one.pages for one in alike]), strict=True))
        loads = [_load(link, cached.get(link, 0)) for link in links]
        index = choose_engine(len(token_ids), loads, next(self._turn))
        if index is None:
            return None
        links[index].unseen_tokens += max(1, len(token_ids) - loads[index].cached_tokens)
        return links[index]

    async def _fail_late(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            reason = f"no engine served within {self._wait_seconds:g} s: {self.problem()}"
            self._requests.fail_waiting(self._wait_seconds, reason)


def combined(hellos: Sequence[Hello]) -> Hello:
    """Return the limits of several engines: a request must fit each of them, so that any can continue it."""
    return Hello(
        epoch=0,
        max_model_len=min(hello.max_model_len for hello in hellos),
        num_pages=sum(hello.num_pages for hello in hellos),
        page_size=hellos[0].page_size,
        max_num_seqs=sum(hello.max_num_seqs for hello in hellos),
        leaving=all(hello.leaving for hello in hellos),
    )


def _load(link: EngineLink, cached: int) -> EngineLoad:
    stats = link.stats
    return EngineLoad(
        forecast=stats.forecast,
        unseen_tokens=link.unseen_tokens + (0 if stats.forecast.token else stats.num_waiting_tokens),
        requests=max(stats.num_running + stats.num_waiting, len(link.sent)),  # `stats` are a message old.
        cached_tokens=cached,
        leaving=link.hello is not None and link.hello.leaving,
    )


async def _addresses(host: str, port: int) -> set[tuple[str, int]]:
    """Return all addresses of a name. Raises OSError while it has none, or if it is no name."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # IDNA refuses it, such as an empty label or one that is too long.
        raise OSError(f"not a host name: {error}") from None
    return {(str(entry[4][0]), port) for entry in found}
