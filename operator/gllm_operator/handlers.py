"""kopf watches LLMDeployments; all that its handlers do is tell the reconciler."""

from __future__ import annotations

import asyncio
from typing import Any

import kopf

from gllm_operator.api import GROUP, PLURAL, VERSION
from gllm_operator.kube.login import Login
from gllm_operator.loop.reconcile import Reconciler


def registry(reconciler: Reconciler, login: Login, resync: float) -> kopf.OperatorRegistry:
    """Level-triggered: no handler of changes, so kopf writes neither annotations nor finalizers."""
    found = kopf.OperatorRegistry()

    @kopf.on.login(registry=found)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        login.headers()  # Reads the token, which the kubelet may have rotated.
        return kopf.ConnectionInfo(
            server=login.server,
            ca_path=login.ca_file or None,
            certificate_path=login.cert_file or None,
            private_key_path=login.key_file or None,
            insecure=not login.verify,
            scheme="Bearer" if login.token else None,
            token=login.token or None,
        )

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=found)
    async def heard(event: Any, **_: Any) -> None:
        deployment = event["object"]
        place = (deployment["metadata"]["namespace"], deployment["metadata"]["name"])
        if event["type"] == "DELETED":
            reconciler.forget(place)
        else:
            reconciler.put(deployment)
            reconciler.start(place, resync)

    return found


async def watch_deployments(
    reconciler: Reconciler, login: Login, namespaces: tuple[str, ...], resync: float, stop: asyncio.Event
) -> None:
    """Until `stop` is set."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 270
    settings.watching.connect_timeout = 10
    await kopf.operator(
        registry=registry(reconciler, login, resync),
        settings=settings,
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        stop_flag=stop,
    )
