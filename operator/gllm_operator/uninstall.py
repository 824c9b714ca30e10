"""Prepares the removal of the operator: `python -m gllm_operator.uninstall`, which the chart runs as pre-delete hook.

An LLMDeployment has a finalizer, so that its requests are finished before its pods are deleted. Only the operator
removes it. Therefore all LLMDeployments are deleted while the operator still runs. With --keep, the operator is
stopped and the finalizers are removed instead, and the pods continue to serve. Either way no deletion hangs later.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

from gllm_operator.api import GROUP, KIND, VERSION
from gllm_operator.kube.api import Api, ApiError
from gllm_operator.kube.client import ApiClient
from gllm_operator.kube.login import login
from gllm_operator.names import FINALIZER
from gllm_operator.objects import Object

_API = f"{GROUP}/{VERSION}"
_POLL = 1.0
_LOOKS = 10
Say = Callable[[str], None]
Sleep = Callable[[float], Awaitable[None]]


async def delete_all(
    api: Api,
    namespaces: Sequence[str],
    timeout: float,
    say: Say = print,
    sleep: Sleep = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Delete all LLMDeployments and wait until they are gone. After `timeout` seconds remove their finalizers."""
    deadline = clock() + timeout
    asked: set[str] = set()
    while left := await _deployments(api, namespaces):
        for one in left:
            metadata = one["metadata"]
            if metadata["uid"] not in asked and "deletionTimestamp" not in metadata:
                say(f"deletes {metadata['namespace']}/{metadata['name']}, after its requests are finished")
                await _gone_is_fine(api.delete(_API, KIND, metadata["namespace"], metadata["name"], metadata["uid"]))
            asked.add(metadata["uid"])
        if clock() >= deadline:
            say(f"{len(left)} LLMDeployments still exist after {timeout:.0f} s: removes their finalizers")
            await _release(api, left)
            deadline = clock() + _POLL * 5
        await sleep(_POLL)


async def release_all(api: Api, namespaces: Sequence[str], say: Say = print, sleep: Sleep = asyncio.sleep) -> None:
    """Remove the finalizer of every LLMDeployment; they and their pods stay."""
    for _ in range(_LOOKS):  # An operator that was about to stop may have added it again.
        found = await _deployments(api, namespaces)
        held = [one for one in found if FINALIZER in (one["metadata"].get("finalizers") or [])]
        if not held:
            break
        await _release(api, held)
        await sleep(_POLL * 2)
    say(f"{len(found)} LLMDeployments are left; they are not reconciled until an operator is installed again")


async def stop_operator(
    api: Api, deployment: str, timeout: float, sleep: Sleep = asyncio.sleep, clock: Callable[[], float] = time.monotonic
) -> None:
    """Scale the operator to zero and wait until it has stopped, because it would add its finalizer again."""
    namespace, _, name = deployment.partition("/")
    await api.patch("apps/v1", "Deployment", namespace, name, {"spec": {"replicas": 0}})
    deadline = clock() + timeout
    while clock() < deadline:
        found = await api.get("apps/v1", "Deployment", namespace, name)
        status = found.get("status") or {}
        seen = status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
        if seen and not status.get("replicas"):
            return
        await sleep(_POLL)


async def _deployments(api: Api, namespaces: Sequence[str]) -> list[Object]:
    scopes: list[str | None] = [*namespaces] or [None]
    found: list[Object] = []
    for scope in scopes:
        try:
            found += (await api.list(_API, KIND, scope))[0]
        except ApiError as error:
            if error.status != 404:  # The CRD is gone, and all LLMDeployments with it.
                raise
    return found


async def _release(api: Api, deployments: Sequence[Object]) -> None:
    for one in deployments:
        metadata = one["metadata"]
        others = [finalizer for finalizer in metadata.get("finalizers") or [] if finalizer != FINALIZER]
        body = {"metadata": {"finalizers": others}}
        await _gone_is_fine(api.patch(_API, KIND, metadata["namespace"], metadata["name"], body))


async def _gone_is_fine(call: Awaitable[object]) -> None:
    try:
        await call
    except ApiError as error:
        if error.status not in (404, 409):  # 409: an object with another uid, which the next list finds.
            raise


async def run(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="gllm_operator.uninstall", description=__doc__.splitlines()[0])
    parser.add_argument("--namespaces", default="", help="comma-separated namespaces; empty: all")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds until finalizers are removed")
    parser.add_argument("--keep", action="store_true", help="keep the LLMDeployments, which continue to serve")
    parser.add_argument("--operator", default="", help="with --keep: NAMESPACE/NAME of the operator's Deployment")
    given = parser.parse_args(arguments)
    namespaces = [part for part in given.namespaces.split(",") if part]
    async with ApiClient(login()) as api:
        if given.keep:
            if given.operator:
                await stop_operator(api, given.operator, given.timeout)
            await release_all(api, namespaces)
        else:
            await delete_all(api, namespaces, given.timeout)


if __name__ == "__main__":
    try:
        asyncio.run(run())
    except (ApiError, ValueError) as problem:
        sys.exit(f"gllm_operator.uninstall: error: {problem}")
