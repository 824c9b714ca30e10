"""The operator's process: the leader reconciles, other replicas wait for its lease."""

from __future__ import annotations

import asyncio
import logging
import signal
import time

from gllm_operator.build.integrations import OPTIONAL_APIS
from gllm_operator.controller.metrics import OperatorMetrics
from gllm_operator.controller.model_files import ModelReader
from gllm_operator.controller.reconcile import Dependencies, Reconciler
from gllm_operator.kube.api import ApiError
from gllm_operator.kube.cache import WATCHED, Cache
from gllm_operator.kube.client import ApiClient
from gllm_operator.kube.elect import Elector
from gllm_operator.kube.failed_creates import MOUNT_FIELDS, FailedCreates
from gllm_operator.kube.informer import Informer
from gllm_operator.kube.login import login
from gllm_operator.kube.nodes import LeavingNodes
from gllm_operator.process.handlers import watch_deployments
from gllm_operator.process.http import serve_http
from gllm_operator.process.settings import Settings

_log = logging.getLogger(__name__)

_OPTIONAL_KINDS = {
    "keda.sh/v1alpha1": "ScaledObject",
    "monitoring.coreos.com/v1": "PodMonitor",
    "gateway.networking.k8s.io/v1": "HTTPRoute",
    "inference.networking.k8s.io/v1": "InferencePool",
}
_API_CHECK_SECONDS = 60.0
_SILENCE_SECONDS = 600.0
"""The API server sends bookmarks every minute, so a watch that is silent for this long hangs."""


async def run(settings: Settings) -> int:
    """Run until a signal (returns 0), or until the lease is lost or an optional API was installed or removed
    (returns 1; Kubernetes then restarts the container)."""
    metrics, stop = OperatorMetrics(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    informers: list[Informer] = []
    async with ApiClient(login(), on_write=lambda verb, kind: metrics.writes.labels(verb, kind).inc()) as api:
        server = None
        if settings.http_port:
            server = await serve_http(
                settings.http_host,
                settings.http_port,
                metrics,
                lambda: _silent(informers),
                lambda: _unsynced(informers),
            )
        try:
            return await _elected(settings, api, metrics, informers, stop)
        finally:
            if server is not None:
                await server.cleanup()


async def _elected(
    settings: Settings, api: ApiClient, metrics: OperatorMetrics, informers: list[Informer], stop: asyncio.Event
) -> int:
    """Reconcile while this process holds the lease."""
    if not settings.lease_name:
        metrics.leads.set(1)
        return await _reconcile(settings, api, metrics, informers, stop, None)
    elector = Elector(
        api,
        settings.lease_namespace,
        settings.lease_name,
        settings.identity,
        duration=settings.lease_seconds,
        renew_every=settings.lease_seconds / 4,
    )
    waiting = asyncio.create_task(elector.acquire())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        return 0
    waiting.result()
    metrics.leads.set(1)
    keeping = asyncio.create_task(elector.keep())
    working = asyncio.create_task(_reconcile(settings, api, metrics, informers, stop, elector))
    await asyncio.wait({keeping, working}, return_when=asyncio.FIRST_COMPLETED)
    metrics.leads.set(0)
    lost = keeping.done()
    stop.set()
    code = await working
    keeping.cancel()
    stopping.cancel()
    await elector.release()
    return 1 if lost else code


async def _reconcile(
    settings: Settings,
    api: ApiClient,
    metrics: OperatorMetrics,
    informers: list[Informer],
    stop: asyncio.Event,
    elector: Elector | None,
) -> int:
    """Reconcile until `stop` is set. Returns 1 if an optional API was installed or removed meanwhile, else 0."""
    apis = await _optional_apis(api)
    cache = Cache(lambda deployment: reconciler.wake(deployment))
    failures = FailedCreates(api, lambda deployment: reconciler.wake(deployment), settings.namespaces)
    mounts = FailedCreates(api, lambda deployment: reconciler.wake(deployment), settings.namespaces, MOUNT_FIELDS)
    nodes = LeavingNodes(api, settings.drain_taints, lambda: reconciler.wake_all())
    reconciler = Reconciler(
        api,
        cache,
        Dependencies(
            failed_create=lambda uid: failures.of(uid) or mounts.of(uid),
            read_model=ModelReader(),
            default_image=settings.default_image,
            operator=settings.name,
            leaving_nodes=lambda: nodes.found,
            apis=apis,
        ),
        metrics=metrics,
        concurrency=settings.concurrency,
        may_write=(lambda: elector.leads) if elector is not None else (lambda: True),
    )
    kinds = [*WATCHED, *((api_version, _OPTIONAL_KINDS[api_version]) for api_version in sorted(apis))]
    informers += [Informer(api, cache, *kind, namespaces=settings.namespaces) for kind in kinds]
    tasks = [asyncio.create_task(informer.run(), name=informer.kind) for informer in informers]
    tasks.append(asyncio.create_task(failures.run(), name="failed creates"))
    tasks.append(asyncio.create_task(mounts.run(), name="failed mounts"))
    tasks.append(asyncio.create_task(nodes.run(), name="nodes"))
    try:
        # No deployment is planned before all lists are in: objects that were not listed yet would be written again.
        synced = asyncio.create_task(_all_synced(informers, nodes))
        stopping = asyncio.create_task(stop.wait())
        changed = asyncio.create_task(_watch_optional_apis(api, apis, stop))
        await asyncio.wait({synced, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            _log.info("reconciles", extra={"namespaces": settings.namespaces or "all", "apis": sorted(apis)})
            await watch_deployments(reconciler, api, settings.namespaces, settings.resync, stop)
        synced.cancel()
        stopping.cancel()
        restart = changed.done()
        changed.cancel()
        return 1 if restart else 0
    finally:
        for key in reconciler.deployments:
            reconciler.forget(key)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _optional_apis(api: ApiClient) -> frozenset[str]:
    return frozenset([name for name in OPTIONAL_APIS if await api.has_api(name)])


async def _watch_optional_apis(api: ApiClient, known: frozenset[str], stop: asyncio.Event) -> None:
    """Set `stop` when an optional API such as KEDA's is installed or removed. A restart then sets up the watches."""
    while True:
        await asyncio.sleep(_API_CHECK_SECONDS)
        try:
            found = await _optional_apis(api)
        except ApiError:
            continue
        if found != known:
            _log.info(
                "restarts: an optional API was installed or removed",
                extra={"apis": sorted(found), "before": sorted(known)},
            )
            stop.set()
            return


async def _all_synced(informers: list[Informer], nodes: LeavingNodes) -> None:
    for informer in informers:
        await informer.synced.wait()
    await nodes.asked.wait()


def _silent(informers: list[Informer]) -> str:
    """Why the process is unhealthy, or an empty text."""
    now = time.monotonic()
    silent = [one for one in informers if now - one.last_contact > _SILENCE_SECONDS]
    return ", ".join(f"the watch of {one.kind} is silent for {now - one.last_contact:.0f} s" for one in silent)


def _unsynced(informers: list[Informer]) -> str:
    """Why the process is not ready, or an empty text. A replica that waits for the lease has no watches, so it is."""
    return ", ".join(f"{one.kind} is not listed yet" for one in informers if not one.synced.is_set())
