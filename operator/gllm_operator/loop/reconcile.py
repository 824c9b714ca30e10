"""One loop a deployment: observe, plan, execute; then sleep until something changes or falls due."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gllm_operator.api.status import LLMDeploymentStatus
from gllm_operator.keys import make_keys
from gllm_operator.kube.api import Api, ApiError, Object
from gllm_operator.kube.cache import Cache, Place
from gllm_operator.logs import about
from gllm_operator.loop.execute import Executor, Memory, NotLeading, Stale
from gllm_operator.loop.masters import Addresses, Answers, ask_masters
from gllm_operator.loop.observe import observe
from gllm_operator.metrics import Metrics
from gllm_operator.names import GROUP_NAME, ROLE, Owner, keys_name
from gllm_operator.plan import Plan, plan

if TYPE_CHECKING:
    from gllm.models.config import ModelConfig

_log = logging.getLogger(__name__)

_ATTEMPTS = 5
"""Passes in a row when the deployment changes under the operator's hands."""

Asker = Callable[[Addresses, Addresses], Awaitable[Answers]]


@dataclass
class Outside:
    """What a pass needs besides the API server; tests have their own."""

    clock: Callable[[], float] = time.time
    ask_masters: Asker = ask_masters
    make_keys: Callable[[], str] = make_keys
    read_model: Callable[[str], ModelConfig | None] = lambda source: None
    default_image: str = ""
    apis: frozenset[str] = frozenset()


@dataclass
class _Held:
    """One deployment."""

    deployment: Object
    memory: Memory = field(default_factory=Memory)
    watch_requests: tuple[str, ...] = ()
    watch_loading: tuple[str, ...] = ()
    status: LLMDeploymentStatus = field(default_factory=LLMDeploymentStatus)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def see(self, deployment: Object) -> bool:
        """Take it, unless a newer one came in meanwhile: the user edits while we write. Whether it was newer."""
        if _version(deployment) <= _version(self.deployment):
            return False
        self.deployment = deployment
        return True


class Reconciler:
    def __init__(
        self,
        api: Api,
        cache: Cache,
        outside: Outside | None = None,
        *,
        may_write: Callable[[], bool] = lambda: True,
        metrics: Metrics | None = None,
        concurrency: int = 16,
    ) -> None:
        self._api = api
        self._cache = cache
        self.outside = outside or Outside()
        self.metrics = metrics or Metrics()
        self._executor = Executor(api, cache, may_write, self.outside.clock)
        self._held: dict[Place, _Held] = {}
        self._slots = asyncio.Semaphore(concurrency)

    # --- what is heard ---------------------------------------------------------------------------------

    def put(self, deployment: Object) -> None:
        """A deployment is there, or has changed."""
        place = _place(deployment)
        held = self._held.get(place)
        if held is None or held.deployment["metadata"]["uid"] != deployment["metadata"]["uid"]:
            self.forget(place)
            held = self._held[place] = _Held(deployment)
            held.wake.set()
        else:
            before = _without_status(held.deployment)
            if held.see(deployment) and before != _without_status(deployment):  # Our own status writes come back too.
                held.wake.set()

    def forget(self, place: Place) -> None:
        """A deployment is gone."""
        held = self._held.pop(place, None)
        if held is not None and held.task is not None:
            held.task.cancel()
        self._count()

    def touch(self, place: Place) -> None:
        """Something of a deployment has changed."""
        if place in self._held:
            self._held[place].wake.set()

    @property
    def places(self) -> list[Place]:
        return list(self._held)

    def start(self, place: Place, resync: float) -> None:
        held = self._held[place]
        if held.task is None:
            held.task = asyncio.create_task(self._loop(place, held, resync), name=f"{place[0]}/{place[1]}")

    # --- loops -------------------------------------------------------------------------------------------

    async def _loop(self, place: Place, held: _Held, resync: float) -> None:
        """Until cancelled, or until the deployment is gone. Never ends for an error."""
        about.set(f"{place[0]}/{place[1]}")
        failures = 0
        while True:
            held.wake.clear()
            try:
                async with self._slots:
                    wait = await self.reconcile(place)
                failures = 0
            except ApiError as error:
                failures += 1
                wait = min(60.0, 0.5 * 2.0 ** min(failures, 8)) * random.uniform(0.8, 1.2)
                _log.warning("cannot reconcile", extra={"error": str(error), "retry_in": round(wait, 1)})
            except NotLeading:
                wait = 1.0  # The lease is late. Either it is renewed, or the process ends.
            except Exception:
                failures += 1
                wait = min(300.0, 2.0 ** min(failures, 8))
                _log.exception("a pass failed")
            if self._held.get(place) is not held:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(held.wake.wait(), min(resync, wait if wait is not None else resync))
            await asyncio.sleep(0.05)  # Changes come in bursts: one pass for all.

    async def reconcile(self, place: Place) -> float | None:
        """One pass; returns in how many seconds the next one is due, None if nothing falls due by itself."""
        began = time.perf_counter()
        result = "error"
        try:
            for _ in range(_ATTEMPTS):
                held = self._held.get(place)
                if held is None:
                    return None
                made = await self._plan(held)
                try:
                    written = await self._executor.execute(held.deployment, made.plan, made.owner, held.memory)
                    held.see(written)
                except Stale:
                    await self._refresh(place, held)
                    result = "stale"
                    continue
                if made.plan.add_finalizer:
                    continue
                held.watch_requests, held.watch_loading = made.plan.watch_requests, made.plan.watch_loading
                held.status = made.plan.status
                self._count()
                result = "ok"
                return made.plan.wake_after
            return 0.5
        finally:
            self.metrics.reconciles.labels(result).inc()
            self.metrics.seconds.observe(time.perf_counter() - began)

    async def _plan(self, held: _Held) -> _Made:
        metadata, outside = held.deployment["metadata"], self.outside
        children = list(self._cache.of(metadata["namespace"], metadata["name"]))
        if held.memory.keys_known and _keys_are_missing(children, metadata["name"]):
            held.memory.keys_known = False
        source = str(((held.deployment.get("spec") or {}).get("model") or {}).get("source", ""))
        observed = observe(
            held.deployment,
            children,
            applied=held.memory.applied,
            refused=held.memory.refused,
            apis=outside.apis,
            keys_known=held.memory.keys_known,
            fresh_keys=outside.make_keys(),
            default_image=outside.default_image,
            model=outside.read_model(source),
            answers=await outside.ask_masters(
                _masters(children, held.watch_requests), _masters(children, held.watch_loading)
            ),
        )
        return _Made(plan(observed, outside.clock()), observed.owner)

    async def _refresh(self, place: Place, held: _Held) -> None:
        """Read the deployment itself: the watch may be behind."""
        try:
            held.see(await self._api.get("gllm.dev/v1alpha1", "LLMDeployment", *place))
        except ApiError as error:
            if error.status != 404:
                raise
            self.forget(place)

    def _count(self) -> None:
        self.metrics.count({place: held.status for place, held in self._held.items()})


@dataclass(frozen=True, slots=True)
class _Made:
    plan: Plan
    owner: Owner


def _place(deployment: Object) -> Place:
    return deployment["metadata"]["namespace"], deployment["metadata"]["name"]


def _version(found: Object) -> int:
    text = str(found["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdigit() else 0


def _without_status(deployment: Object) -> Object:
    metadata = deployment["metadata"]
    spoken = ("generation", "annotations", "deletionTimestamp", "finalizers")
    return {"metadata": {key: metadata.get(key) for key in spoken}}


def _masters(children: list[Object], groups: tuple[str, ...]) -> dict[str, tuple[str, int]]:
    """Group to (address, port) of its master, for those of these groups that have one."""
    found = {}
    for child in children:
        labels = child["metadata"].get("labels") or {}
        address = (child.get("status") or {}).get("podIP")
        if child["kind"] == "Pod" and labels.get(ROLE) == "master" and labels.get(GROUP_NAME) in groups and address:
            ports = [port for container in child["spec"]["containers"] for port in container.get("ports") or []]
            port = next((one["containerPort"] for one in ports if one.get("name") == "http"), None)
            if port is not None:
                found[labels[GROUP_NAME]] = (address, port)
    return found


def _keys_are_missing(children: list[Object], name: str) -> bool:
    """Whether a container cannot start for want of the Secret: somebody removed it. (The operator may not read it.)"""
    for child in children:
        for status in (child.get("status") or {}).get("containerStatuses") or []:
            waiting = (status.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") == "CreateContainerConfigError" and keys_name(name) in waiting.get("message", ""):
                return True
    return False
