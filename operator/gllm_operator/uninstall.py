"""Prepares the removal of the operator: `python -m gllm_operator.uninstall`, which the chart runs as pre-delete hook.

An LLMDeployment has a finalizer, so that its requests are finished before its pods are deleted. Only the operator
removes it. Therefore the LLMDeployments of the operator are deleted while it still runs, and then the CRD, if no other
LLMDeployment exists. With --keep, the operator is stopped and the finalizers are removed instead, and the pods continue
to serve. Either way no deletion hangs later.

`helm template` prints hooks like all other objects, and tools apply them. So nothing is done unless helm's record of
the release says that it is being uninstalled.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from gllm_operator.api import GROUP, KIND, PLURAL, VERSION
from gllm_operator.kube.api import Api, ApiError
from gllm_operator.kube.client import ApiClient
from gllm_operator.kube.login import login
from gllm_operator.names import FINALIZER, OPERATOR
from gllm_operator.objects import Object

_API = f"{GROUP}/{VERSION}"
_CRD = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", f"{PLURAL}.{GROUP}")
_POLL = 1.0
_LOOKS = 10
Say = Callable[[str], None]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Mine:
    """The LLMDeployments that the operator manages."""

    operator: str
    """NAMESPACE/NAME of the operator, as it marks them."""
    namespaces: tuple[str, ...] = ()
    """The namespaces that it watches; empty: all."""

    async def find(self, api: Api) -> list[Object]:
        return [one for one in await _deployments(api, self.namespaces) if _operator_of(one) == self.operator]


async def is_uninstalling(api: Api, namespace: str, release: str) -> bool:
    """Whether helm's record of the release, a Secret or a ConfigMap, says that it is being uninstalled."""
    selector = f"owner=helm,name={release},status=uninstalling"
    for kind in ("Secret", "ConfigMap"):
        if (await api.list("v1", kind, namespace, selector))[0]:
            return True
    return False


async def delete_all(
    api: Api,
    mine: Mine,
    timeout: float,
    say: Say = print,
    sleep: Sleep = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Delete the operator's LLMDeployments and wait until they are gone. After `timeout` s remove their finalizers."""
    deadline = clock() + timeout
    asked: set[str] = set()
    while left := await mine.find(api):
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


async def delete_crd(api: Api, release: str, say: Say = print) -> None:
    """Delete the CRD of the release (NAMESPACE/NAME), unless LLMDeployments are left, which would go with it."""
    try:
        crd = await api.get(*_CRD)
    except ApiError as error:
        if error.status == 404:
            return
        raise
    annotations = crd["metadata"].get("annotations") or {}
    owner = f"{annotations.get('meta.helm.sh/release-namespace')}/{annotations.get('meta.helm.sh/release-name')}"
    if owner != release:
        say(f"keeps the CRD, which belongs to the release {owner}")
        return
    left = await _deployments(api, ())
    if left:
        names = ", ".join(f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in left[:5])
        say(f"keeps the CRD: {len(left)} LLMDeployments are left that this operator does not manage ({names})")
        return
    await _gone_is_fine(api.delete(*_CRD, crd["metadata"]["uid"]))
    say("deletes the CRD")


async def release_all(api: Api, mine: Mine, say: Say = print, sleep: Sleep = asyncio.sleep) -> None:
    """Remove the finalizer and the mark of the operator's LLMDeployments; they and their pods stay. Open their budgets,
    because without an operator no new group starts for an eviction that waits."""
    released: set[str] = set()
    for _ in range(_LOOKS):  # An operator that was about to stop may have added them again.
        held = await mine.find(api)
        if not held:
            break
        released |= {one["metadata"]["uid"] for one in held}
        for one in held:
            metadata, disruption = one["metadata"], one["spec"].get("disruption") or {}
            body = {"spec": {"maxUnavailable": disruption.get("maxUnavailableGroups", 1)}}
            await _gone_is_fine(
                api.patch("policy/v1", "PodDisruptionBudget", metadata["namespace"], metadata["name"], body)
            )
        await _release(api, held)
        await sleep(_POLL * 2)
    say(f"{len(released)} LLMDeployments are left; they are not reconciled until an operator is installed again")


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
        body = {"metadata": {"finalizers": others, "annotations": {OPERATOR: None}}}
        await _gone_is_fine(api.patch(_API, KIND, metadata["namespace"], metadata["name"], body))


def _operator_of(deployment: Object) -> str:
    return str((deployment["metadata"].get("annotations") or {}).get(OPERATOR, ""))


async def _gone_is_fine(call: Awaitable[object]) -> None:
    try:
        await call
    except ApiError as error:
        if error.status not in (404, 409):  # 409: an object with another uid, which the next list finds.
            raise


async def run(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="gllm_operator.uninstall", description=__doc__.splitlines()[0])
    parser.add_argument("--release", required=True, help="NAMESPACE/NAME of the helm release")
    parser.add_argument("--operator", required=True, help="NAMESPACE/NAME of the operator's Deployment")
    parser.add_argument("--namespaces", default="", help="comma-separated namespaces that it watches; empty: all")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds until finalizers are removed")
    parser.add_argument("--keep", action="store_true", help="keep the LLMDeployments, which continue to serve")
    parser.add_argument("--crd", action="store_true", help="delete the CRD at the end, if it is unused")
    given = parser.parse_args(arguments)
    mine = Mine(given.operator, tuple(part for part in given.namespaces.split(",") if part))
    namespace, _, release = given.release.partition("/")
    async with ApiClient(login()) as api:
        if not await is_uninstalling(api, namespace, release):
            print(f"does nothing: helm does not uninstall the release {release} in the namespace {namespace}")
        elif given.keep:
            await stop_operator(api, given.operator, given.timeout)
            await release_all(api, mine)
        else:
            await delete_all(api, mine, given.timeout)
            if given.crd:
                await delete_crd(api, given.release)


if __name__ == "__main__":
    try:
        asyncio.run(run())
    except (ApiError, ValueError) as problem:
        sys.exit(f"gllm_operator.uninstall: error: {problem}")
