"""One loop for each deployment: observe, plan, execute, then sleep until a change or the next deadline."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gllm_operator.api.status import LLMDeploymentStatus
from gllm_operator.build.model_source import served_name
from gllm_operator.build.singletons import make_keys
from gllm_operator.controller.execute import Executor, NotLeading, Stale
from gllm_operator.controller.masters import Addresses, Answers, ask_gateways, ask_masters
from gllm_operator.controller.memory import Memory
from gllm_operator.controller.metrics import OperatorMetrics
from gllm_operator.controller.observe import observe
from gllm_operator.controller.sharing import parent_of, sharing
from gllm_operator.controller.spec_of import decode_spec
from gllm_operator.kube.api import Api, ApiError
from gllm_operator.kube.cache import Cache
from gllm_operator.kube.failed_creates import FailedCreate
from gllm_operator.names import FINALIZER, GATEWAY, GROUP_NAME, ROLE, Owner, keys_name
from gllm_operator.objects import Object, ObjectKey, key_of, resource_version
from gllm_operator.plan import Plan, plan

if TYPE_CHECKING:
    from gllm.models.config import ModelConfig

_log = logging.getLogger(__name__)

current_deployment: contextvars.ContextVar[ObjectKey | None] = contextvars.ContextVar(
    "current_deployment", default=None
)
"""The LLMDeployment that the current task reconciles, for log records."""

_ATTEMPTS = 5
"""Attempts of one pass when the deployment changes while the operator writes."""
_BURST_SECONDS = 0.05
"""Changes come in bursts, so a pass waits this long before it starts."""

Asker = Callable[[Addresses, Addresses], Awaitable[Answers]]


@dataclass
class Dependencies:
    """What a pass uses besides the API server; tests replace it."""

    clock: Callable[[], float] = time.time
    ask_masters: Asker = ask_masters
    ask_gateways: Callable[[Addresses, str], Awaitable[tuple[float | None, ...]]] = ask_gateways
    make_keys: Callable[[], str] = make_keys
    failed_create: Callable[[str], FailedCreate | None] = lambda uid: None
    """Why the StatefulSet with this uid could not create a pod."""
    read_model: Callable[[str], ModelConfig | None] = lambda source: None
    default_image: str = ""
    operator: str = "default/gllm-operator"
    """NAMESPACE/NAME of this operator, with which it marks what it manages."""
    leaving_nodes: Callable[[], Mapping[str, str] | None] = lambda: None
    """Why each node is about to go, by its name; None: the operator may not watch nodes."""
    apis: frozenset[str] = frozenset()


@dataclass
class _DeploymentState:
    """What the reconciler knows of one deployment."""

    deployment: Object
    memory: Memory = field(default_factory=Memory)
    watch_requests: tuple[str, ...] = ()
    watch_loading: tuple[str, ...] = ()
    watch_gateways: bool = False
    status: LLMDeploymentStatus = field(default_factory=LLMDeploymentStatus)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    resync: float = 0.0

    def update(self, deployment: Object) -> bool:
        """Take a newer version of the deployment. Returns whether it was newer: a user may edit while we write."""
        if resource_version(deployment) <= resource_version(self.deployment):
            return False
        self.deployment = deployment
        return True


class Reconciler:
    def __init__(
        self,
        api: Api,
        cache: Cache,
        dependencies: Dependencies | None = None,
        *,
        may_write: Callable[[], bool] = lambda: True,
        metrics: OperatorMetrics | None = None,
        concurrency: int = 16,
    ) -> None:
        self._api = api
        self._cache = cache
        self.dependencies = dependencies or Dependencies()
        self.metrics = metrics or OperatorMetrics()
        self._executor = Executor(api, cache, may_write, self.dependencies.clock)
        self._states: dict[ObjectKey, _DeploymentState] = {}
        self._slots = asyncio.Semaphore(concurrency)

    # --- watch events ------------------------------------------------------------------------------------

    def put(self, deployment: Object) -> None:
        """Take a new or changed deployment."""
        key = key_of(deployment)
        state = self._states.get(key)
        if state is None or state.deployment["metadata"]["uid"] != deployment["metadata"]["uid"]:
            self.forget(key)
            new = self._states[key] = _DeploymentState(deployment)
            new.wake.set()
            if state is not None and state.task is not None:
                self.start(key, state.resync)
            self._wake_sharers(key, deployment)
        else:
            # The watch also delivers the operator's own status writes, which need no pass.
            old = state.deployment
            if state.update(deployment) and _without_status(old) != _without_status(deployment):
                state.wake.set()
                self._wake_sharers(key, old, deployment)

    def forget(self, key: ObjectKey) -> None:
        """Drop a deployment that is gone."""
        state = self._states.pop(key, None)
        if state is not None and state.task is not None:
            state.task.cancel()
        if state is not None:
            self._wake_sharers(key, state.deployment)
        self._count()

    def wake(self, key: ObjectKey) -> None:
        """Start a pass, because an object of the deployment has changed."""
        if key in self._states:
            self._states[key].wake.set()
        self._wake_sharers(key)

    def _wake_sharers(self, key: ObjectKey, *versions: Object) -> None:
        """Start passes of the deployments that share the gateways of this one, and of the parents in its versions."""
        parents = {parent_of(one) for one in versions}
        for other, state in self._states.items():
            if other.namespace == key.namespace and (other.name in parents or parent_of(state.deployment) == key.name):
                state.wake.set()

    def wake_all(self) -> None:
        for key in self._states:
            self.wake(key)

    @property
    def deployments(self) -> list[ObjectKey]:
        return list(self._states)

    def start(self, key: ObjectKey, resync: float) -> None:
        """Start the deployment's loop, unless it runs."""
        state = self._states[key]
        if state.task is None:
            state.resync = resync
            state.task = asyncio.create_task(self._loop(key, state, resync), name=str(key))

    # --- loops -------------------------------------------------------------------------------------------

    async def _loop(self, key: ObjectKey, state: _DeploymentState, resync: float) -> None:
        """Run passes until cancelled, or until the deployment is gone. No error ends the loop."""
        current_deployment.set(key)
        failures, checked = 0, time.monotonic()
        while True:
            state.wake.clear()
            try:
                async with self._slots:
                    if time.monotonic() - checked > resync:
                        await self._refresh(key, state)  # kopf does not report what was deleted while its watch broke.
                        checked = time.monotonic()
                    wait = await self.reconcile(key)
                failures = 0
            except ApiError as error:
                failures += 1
                wait = min(60.0, 0.5 * 2.0 ** min(failures, 8)) * random.uniform(0.8, 1.2)
                _log.warning("a pass failed", extra={"error": str(error), "retry_in": round(wait, 1)})
            except NotLeading:
                wait = 1.0  # The lease was not renewed in time. It is renewed soon, or the process ends.
            except Exception:
                failures += 1
                wait = min(300.0, 2.0 ** min(failures, 8))
                _log.exception("a pass failed unexpectedly", extra={"retry_in": round(wait, 1)})
            if self._states.get(key) is not state:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(state.wake.wait(), min(resync, wait if wait is not None else resync))
            await asyncio.sleep(_BURST_SECONDS)

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Run one pass. Returns the seconds until the next one is due, or None if only a change makes it due."""
        began = time.perf_counter()
        result = "error"
        try:
            for _ in range(_ATTEMPTS):
                state = self._states.get(key)
                if state is None:
                    return None
                made, owner = await self._plan(key, state)
                refused = dict(state.memory.refused)
                try:
                    state.update(await self._executor.execute(state.deployment, made, owner, state.memory))
                except Stale:
                    await self._refresh(key, state)
                    result = "stale"
                    continue
                if made.claim:
                    continue
                state.watch_requests, state.watch_loading = made.watch_requests, made.watch_loading
                state.watch_gateways = made.watch_gateways
                state.status = made.status
                self._count()
                result = "ok"
                metadata = state.deployment["metadata"]
                if "deletionTimestamp" in metadata and FINALIZER not in (metadata.get("finalizers") or []):
                    self.forget(key)  # Nothing is left to do, and the watch may miss the end of it.
                # A refusal, or its end, is told by the next pass, at once.
                return made.wake_after if state.memory.refused == refused else 0.0
            return 0.5
        finally:
            self.metrics.reconciles.labels(result).inc()
            self.metrics.seconds.observe(time.perf_counter() - began)

    async def _plan(self, key: ObjectKey, state: _DeploymentState) -> tuple[Plan, Owner]:
        dependencies, memory = self.dependencies, state.memory
        objects = list(self._cache.of(key))
        if memory.keys_known and _keys_are_missing(objects, key.name, dependencies.failed_create):
            memory.keys_known = False
        source = str(((state.deployment.get("spec") or {}).get("model") or {}).get("source", ""))
        spec, _ = decode_spec(state.deployment.get("spec"))
        shared = sharing(
            state.deployment,
            [one.deployment for other, one in self._states.items() if other.namespace == key.namespace],
            lambda name: self._cache.of(ObjectKey(key.namespace, name)),
            dependencies.default_image,
        )
        gateways_idle: tuple[float | None, ...] = ()
        if state.watch_gateways and spec is not None:
            gateways = _gateways([*shared.gateways] if parent_of(state.deployment) else objects)
            gateways_idle = await dependencies.ask_gateways(gateways, served_name(spec.model))
        observed = observe(
            state.deployment,
            objects,
            applied=memory.applied,
            refused=memory.refused,
            apis=dependencies.apis,
            keys_known=memory.keys_known,
            fresh_keys=dependencies.make_keys(),
            default_image=dependencies.default_image,
            operator=dependencies.operator,
            model=dependencies.read_model(source),
            failed_create=dependencies.failed_create,
            answers=await dependencies.ask_masters(
                _masters(objects, state.watch_requests), _masters(objects, state.watch_loading)
            ),
            gateways_idle=gateways_idle,
            sharing=shared,
            leaving_nodes=dependencies.leaving_nodes(),
        )
        return plan(observed, dependencies.clock()), observed.owner

    async def _refresh(self, key: ObjectKey, state: _DeploymentState) -> None:
        """Read the deployment from the API server, because the watch may be behind."""
        try:
            found = await self._api.get("gllm.dev/v1alpha1", "LLMDeployment", *key)
        except ApiError as error:
            if error.status != 404:
                raise
            self.forget(key)
            return
        if found["metadata"]["uid"] == state.deployment["metadata"]["uid"]:
            state.deployment = found
        else:
            self.put(found)  # It was deleted and created again.

    def _count(self) -> None:
        self.metrics.count({key: state.status for key, state in self._states.items()})


def _without_status(deployment: Object) -> Object:
    metadata = deployment["metadata"]
    relevant = ("generation", "annotations", "deletionTimestamp", "finalizers")
    return {"metadata": {key: metadata.get(key) for key in relevant}}


def _masters(objects: list[Object], groups: tuple[str, ...]) -> dict[str, tuple[str, int]]:
    """(address, port) of each group's master, for those of `groups` whose master has an address."""
    found = {}
    for one in objects:
        labels = one["metadata"].get("labels") or {}
        address = _address(one)
        if labels.get(ROLE) == "master" and labels.get(GROUP_NAME) in groups and address is not None:
            found[labels[GROUP_NAME]] = address
    return found


def _gateways(objects: list[Object]) -> dict[str, tuple[str, int]]:
    """(address, port) of each gateway pod that has an address, by its name."""
    pods = [one for one in objects if GATEWAY in (one["metadata"].get("labels") or {})]
    return {one["metadata"]["name"]: address for one in pods if (address := _address(one)) is not None}


def _address(pod: Object) -> tuple[str, int] | None:
    """Address and HTTP port of a pod that has both; None for other objects."""
    address = (pod.get("status") or {}).get("podIP")
    if pod["kind"] != "Pod" or not address:
        return None
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports") or []]
    port = next((each["containerPort"] for each in ports if each.get("name") == "http"), None)
    return None if port is None else (address, port)


def _keys_are_missing(objects: list[Object], name: str, failed_mount: Callable[[str], FailedCreate | None]) -> bool:
    """Whether a pod cannot start because the Secret with the keys is gone. The operator may not read Secrets."""
    pods = [one for one in objects if one["kind"] == "Pod" and not (one.get("status") or {}).get("podIP")]
    failures = [failed_mount(one["metadata"]["uid"]) for one in pods]
    return any(one is not None and f'"{keys_name(name)}" not found' in one.message for one in failures)
