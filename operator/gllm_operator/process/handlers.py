"""kopf watches LLMDeployments; its handler hands them to the reconciler."""

from __future__ import annotations

import asyncio
from typing import Any

import kopf

from gllm_operator.api import GROUP, PLURAL, VERSION
from gllm_operator.controller.reconcile import Reconciler
from gllm_operator.kube.client import ApiClient
from gllm_operator.objects import key_of


def registry(reconciler: Reconciler, api: ApiClient, resync: float) -> kopf.OperatorRegistry:
    """Only an event handler: handlers of changes would make kopf write annotations and finalizers."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def log_in(**_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=api.login.server, aiohttp_session=api.new_session())

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def on_event(event: Any, **_: Any) -> None:
        deployment = event["object"]
        key = key_of(deployment)
        if event["type"] == "DELETED":
            reconciler.forget(key)
        else:
            reconciler.put(deployment)
            reconciler.start(key, resync)

    return handlers


async def watch_deployments(
    reconciler: Reconciler, api: ApiClient, namespaces: tuple[str, ...], resync: float, stop: asyncio.Event
) -> None:
    """Run kopf until `stop` is set."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 270
    settings.watching.connect_timeout = 10
    await kopf.operator(
        registry=registry(reconciler, api, resync),
        settings=settings,
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        stop_flag=stop,
    )
