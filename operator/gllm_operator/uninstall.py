"""Before the operator is taken away: `python -m gllm_operator.uninstall`, which the chart runs as a pre-delete hook.

An LLMDeployment has a finalizer, so that its requests are finished before its pods go; without an operator nobody would
take it off. Either all LLMDeployments are deleted while the operator still runs, or (--keep) the operator is stopped
and the finalizers taken off, and the pods serve on. In both cases nothing hangs afterwards.
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
    """Deletes every LLMDeployment, waits until they are gone, and takes the finalizers off what is left by then."""
    deadline = clock() + timeout
    asked: set[str] = set()
    while left := await _deployments(api, namespaces):
        for one in left:
            metadata = one["metadata"]
            if metadata["uid"] not in asked and "deletionTimestamp" not in metadata:
                say(f"deletes {metadata['namespace']}/{metadata['name']}; its requests are finished first")
                await _gone_is_fine(api.delete(_API, KIND, metadata["namespace"], metadata["name"], metadata["uid"]))
            asked.add(metadata["uid"])
        if clock() >= deadline:
            say(f"{len(left)} are still there after {timeout:.0f} s: takes their finalizers off")
            await _release(api, left)
            deadline = clock() + _POLL * 5
        await sleep(_POLL)


async def release_all(api: Api, namespaces: Sequence[str], say: Say = print, sleep: Sleep = asyncio.sleep) -> None:
    """Takes the finalizer off every LLMDeployment; they and their pods stay."""
    for _ in range(_LOOKS):  # An operator that was about to end may just have put it on again.
        found = await _deployments(api, namespaces)
        held = [one for one in found if FINALIZER in (one["metadata"].get("finalizers") or [])]
        if not held:
            break
        await _release(api, held)
        await sleep(_POLL * 2)
    say(f"{len(found)} LLMDeployments are left; nobody looks after them until an operator is installed again")


async def stop_operator(
    api: Api, deployment: str, timeout: float, sleep: Sleep = asyncio.sleep, clock: Callable[[], float] = time.monotonic
) -> None:
    """Waits until no operator runs: one would put its finalizer on again."""
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
            if error.status != 404:  # The CRD is gone, and with it all of them.
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
        if error.status not in (404, 409):  # 409: it is another one by now, which the next look finds.
            raise


async def run(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="gllm_operator.uninstall", description=__doc__.splitlines()[0])
    parser.add_argument("--namespaces", default="", help="with commas between; empty: all")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds until finalizers are taken off")
    parser.add_argument("--keep", action="store_true", help="LLMDeployments stay and serve on")
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
