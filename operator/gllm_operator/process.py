"""The operator's process: one that leads acts, the others wait."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from dataclasses import replace

from gllm_operator.build.singles import OPTIONAL_APIS
from gllm_operator.handlers import watch_deployments
from gllm_operator.kube.api import ApiError
from gllm_operator.kube.cache import WATCHED, Cache
from gllm_operator.kube.client import Client
from gllm_operator.kube.elect import Elector
from gllm_operator.kube.informer import Informer
from gllm_operator.kube.login import login
from gllm_operator.loop.model_files import ModelReader
from gllm_operator.loop.reconcile import Outside, Reconciler
from gllm_operator.metrics import Metrics
from gllm_operator.settings import Settings
from gllm_operator.web import serve

_log = logging.getLogger(__name__)

_OPTIONAL_KINDS = {"keda.sh/v1alpha1": "ScaledObject", "monitoring.coreos.com/v1": "PodMonitor"}
_LOOK_FOR_APIS = 60.0
_SILENCE = 600.0
"""Bookmarks come every minute: watches that heard nothing for so long hang."""


async def run(settings: Settings) -> int:
    """Until a signal (0), or until the lease is lost or an API has come or gone that a cluster may lack (1: whoever
    runs the process starts it anew)."""
    metrics, stop = Metrics(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    informers: list[Informer] = []
    async with Client(login(), on_write=lambda verb, kind: metrics.writes.labels(verb, kind).inc()) as api:
        web = None
        if settings.http_port:
            web = await serve(
                settings.http_host,
                settings.http_port,
                metrics,
                lambda: _silent(informers),
                lambda: _unsynced(informers),
            )
        try:
            return await _elected(settings, api, metrics, informers, stop)
        finally:
            if web is not None:
                await web.cleanup()


async def _elected(
    settings: Settings, api: Client, metrics: Metrics, informers: list[Informer], stop: asyncio.Event
) -> int:
    if not settings.lease_name:
        metrics.leads.set(1)
        return await _act(settings, api, metrics, informers, stop, None)
    elector = Elector(
        api, settings.lease_namespace, settings.lease_name, settings.identity, duration=settings.lease_seconds,
        renew_every=settings.lease_seconds / 4,
    )  # fmt: skip
    waiting = asyncio.create_task(elector.acquire())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        return 0
    waiting.result()
    metrics.leads.set(1)
    keeping = asyncio.create_task(elector.keep())
    acting = asyncio.create_task(_act(settings, api, metrics, informers, stop, elector))
    await asyncio.wait({keeping, acting}, return_when=asyncio.FIRST_COMPLETED)
    metrics.leads.set(0)
    lost = keeping.done()
    stop.set()
    code = await acting
    keeping.cancel()
    stopping.cancel()
    await elector.release()
    return 1 if lost else code


async def _act(
    settings: Settings,
    api: Client,
    metrics: Metrics,
    informers: list[Informer],
    stop: asyncio.Event,
    elector: Elector | None,
) -> int:
    """Returns 1 if other optional APIs are there than at the start, else 0, once `stop` is set."""
    apis = await _optional_apis(api)
    touch: list[Reconciler] = []
    cache = Cache(lambda place: touch[0].touch(place))
    outside = replace(Outside(), read_model=ModelReader(), default_image=settings.default_image, apis=apis)
    reconciler = Reconciler(
        api, cache, outside, metrics=metrics, concurrency=settings.concurrency,
        may_write=(lambda: elector.leads) if elector is not None else (lambda: True),
    )  # fmt: skip
    touch.append(reconciler)
    kinds = [*WATCHED, *((api_version, _OPTIONAL_KINDS[api_version]) for api_version in sorted(apis))]
    informers += [Informer(api, cache, *kind, namespaces=settings.namespaces) for kind in kinds]
    tasks = [asyncio.create_task(informer.run(), name=informer.kind) for informer in informers]
    try:
        # Nothing is decided before everything is known: what is not seen would be made twice.
        synced = asyncio.create_task(_all_synced(informers))
        stopping = asyncio.create_task(stop.wait())
        changed = asyncio.create_task(_other_apis(api, apis, stop))
        await asyncio.wait({synced, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            _log.info("watches", extra={"namespaces": settings.namespaces or "all", "apis": sorted(apis)})
            await watch_deployments(reconciler, api.login, settings.namespaces, settings.resync, stop)
        synced.cancel()
        stopping.cancel()
        other = changed.done()
        changed.cancel()
        return 1 if other else 0
    finally:
        for place in reconciler.places:
            reconciler.forget(place)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _optional_apis(api: Client) -> frozenset[str]:
    return frozenset([name for name in OPTIONAL_APIS if await api.has_api(name)])


async def _other_apis(api: Client, known: frozenset[str], stop: asyncio.Event) -> None:
    """Until KEDA, say, was installed or taken away: sets `stop`. All watches begin anew then, which is simplest."""
    while True:
        await asyncio.sleep(_LOOK_FOR_APIS)
        try:
            found = await _optional_apis(api)
        except ApiError:
            continue
        if found != known:
            _log.info("starts anew: APIs came or went", extra={"apis": sorted(found), "before": sorted(known)})
            stop.set()
            return


async def _all_synced(informers: list[Informer]) -> None:
    for informer in informers:
        await informer.synced.wait()


def _silent(informers: list[Informer]) -> str:
    now = time.monotonic()
    return ", ".join(f"no word of {one.kind} for {now - one.last_contact:.0f} s" for one in informers
                     if now - one.last_contact > _SILENCE)  # fmt: skip


def _unsynced(informers: list[Informer]) -> str:
    """A standby is ready too: it waits for the lease."""
    return ", ".join(f"{one.kind} not listed yet" for one in informers if not one.synced.is_set())
