"""Converts Kubernetes objects to `Observed`. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from gllm_operator.api.extras import ObjectMeta
from gllm_operator.api.status import decode_status
from gllm_operator.build.pod import CONTAINER
from gllm_operator.build.rendering import stored
from gllm_operator.controller.masters import NO_ANSWERS, Answers
from gllm_operator.controller.sharing import NO_SHARING, Sharing
from gllm_operator.controller.spec_of import decode_spec
from gllm_operator.kube.failed_creates import FailedCreate
from gllm_operator.names import (
    FINALIZER,
    INDEX,
    INSTANCE,
    MANAGER,
    OPERATOR,
    POD_INDEX,
    RESTART_ANNOTATION,
    REVISION,
    ROLE,
    SERVING,
    GroupId,
    Owner,
)
from gllm_operator.objects import Object, ObjectRef, digest, ref_of, seconds_of
from gllm_operator.plan.observed import (
    CANNOT_START,
    FAILED_CREATE,
    Applied,
    Observed,
    ObservedPod,
    ObservedRevision,
    ObservedSet,
    OwnedObject,
    PodFailure,
    Refusal,
    RouteAnswer,
)

if TYPE_CHECKING:
    from gllm.models.config import ModelConfig

_EVICTIONS = frozenset({"EvictionByEvictionAPI", "PreemptionByScheduler"})
"""Reasons of the condition DisruptionTarget of pods that end in their grace period, on a node that works."""


def observe(
    deployment: Object,
    objects: Iterable[Object],
    *,
    applied: Mapping[ObjectRef, Applied],
    refused: Mapping[ObjectRef, Refusal],
    apis: frozenset[str] = frozenset(),
    keys_known: bool = True,
    fresh_keys: str = "",
    default_image: str = "",
    operator: str = "",
    model: ModelConfig | None = None,
    answers: Answers = NO_ANSWERS,
    failed_create: Callable[[str], FailedCreate | None] = lambda uid: None,
    gateways_idle: tuple[float | None, ...] = (),
    sharing: Sharing = NO_SHARING,
    leaving_nodes: Mapping[str, str] | None = None,
) -> Observed:
    metadata = deployment["metadata"]
    spec, problem = decode_spec(deployment.get("spec"))
    common = ObjectMeta() if spec is None else spec.object_meta
    owner = Owner(metadata["namespace"], metadata["name"], metadata["uid"], common.labels, common.annotations)
    found = list(objects)
    controlled = [one for one in found if one["kind"] != "Pod" and controller_of(one) == owner.uid]
    # Sets that were orphaned, or belong to an earlier LLMDeployment of this name, keep their pods.
    theirs = {one["metadata"]["uid"] for one in found if one["kind"] == "StatefulSet"}
    theirs -= {one["metadata"]["uid"] for one in controlled}
    pods = [one for one in found if one["kind"] == "Pod" and controller_of(one) not in theirs]
    shares = spec is not None and spec.gateway is not None and spec.gateway.parent is not None
    gateways = sharing.gateways if shares else controlled
    deployments = [one for one in gateways if one["kind"] == "Deployment"]
    return Observed(
        owner=owner,
        generation=metadata.get("generation", 1),
        spec=spec,
        spec_error=problem,
        restart=(metadata.get("annotations") or {}).get(RESTART_ANNOTATION, ""),
        status=decode_status(deployment.get("status")),
        deleting_since=seconds_of(metadata.get("deletionTimestamp")),
        orphaned="orphan" in (metadata.get("finalizers") or []),
        has_finalizer=FINALIZER in (metadata.get("finalizers") or []),
        sets=tuple(
            filter(None, (observed_set(one, failed_create) for one in controlled if one["kind"] == "StatefulSet"))
        ),
        pods=tuple(filter(None, (observed_pod(one, failed_create) for one in pods))),
        revisions=tuple(observed_revision(one) for one in controlled if one["kind"] == "ControllerRevision"),
        owned={
            ref_of(one): owned_object_of(one, owner)
            for one in found
            if one["kind"] != "Pod" and not (one["kind"] == "ControllerRevision" and controller_of(one) != owner.uid)
        },
        route_answers=tuple(
            answer for one in controlled if one["kind"] == "HTTPRoute" for answer in route_answers(one)
        ),
        applied=applied,
        refused=refused,
        apis=apis,
        keys_known=keys_known,
        fresh_keys=fresh_keys,
        default_image=default_image,
        operator=operator,
        managed_by=(metadata.get("annotations") or {}).get(OPERATOR, ""),
        model=model,
        gateways_ready=sum(map(_is_ready_pod, gateways)) if shares else sum(map(_ready_pods, deployments)),
        gateways_wanted=sum(map(_wanted, deployments)),
        gateways_current=any(map(_is_current, deployments)),
        shared=sharing.models,
        not_shared=sharing.refusal,
        leaving_nodes=leaving_nodes,
        gateways_idle=gateways_idle,
        in_flight=answers.in_flight,
        loaded=answers.loaded,
    )


def _ready_pods(deployment: Object) -> int:
    return int((deployment.get("status") or {}).get("readyReplicas") or 0)


def _is_ready_pod(found: Object) -> bool:
    conditions = {one["type"]: one["status"] for one in (found.get("status") or {}).get("conditions") or []}
    return found["kind"] == "Pod" and conditions.get("Ready") == "True" and "deletionTimestamp" not in found["metadata"]


def _wanted(deployment: Object) -> int:
    return int(deployment["spec"].get("replicas", 1))


def _is_current(deployment: Object) -> bool:
    status, wanted = deployment.get("status") or {}, _wanted(deployment)
    seen = status.get("observedGeneration") == deployment["metadata"].get("generation")
    counts = [status.get(name) or 0 for name in ("replicas", "updatedReplicas", "readyReplicas")]
    return bool(seen) and counts == [wanted] * 3


def controller_of(found: Object) -> str | None:
    for reference in found["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return str(reference["uid"])
    return None


def owned_object_of(found: Object, owner: Owner) -> OwnedObject:
    metadata = found["metadata"]
    return OwnedObject(
        ref_of(found),
        metadata["uid"],
        fields_digest(found),
        controller_of(found) == owner.uid,
        "deletionTimestamp" in metadata,
    )


def fields_digest(found: Object) -> str:
    """Digest of the list of fields that the operator owns. An edit by another manager removes the field from it."""
    for entry in found["metadata"].get("managedFields") or []:
        if entry.get("manager") == MANAGER and entry.get("operation") == "Apply" and not entry.get("subresource"):
            return digest(entry.get("fieldsV1"))
    return ""


def group_of(found: Object) -> GroupId | None:
    labels = found["metadata"].get("labels") or {}
    try:
        return GroupId(int(labels[INDEX]), labels[REVISION], int(labels[INSTANCE]))
    except (KeyError, ValueError):
        return None


def observed_set(found: Object, failed_create: Callable[[str], FailedCreate | None]) -> ObservedSet | None:
    group = group_of(found)
    if group is None:
        return None
    metadata = found["metadata"]
    failed = failed_create(metadata["uid"])
    return ObservedSet(
        group,
        metadata["labels"].get(ROLE, ""),
        ref_of(found),
        metadata["uid"],
        found["spec"].get("replicas", 1),
        seconds_of(metadata.get("creationTimestamp")) or 0.0,
        "deletionTimestamp" in metadata,
        None if failed is None else PodFailure(failed.time, FAILED_CREATE, None, failed.message),
    )


def route_answers(route: Object) -> list[RouteAnswer]:
    """The conditions Accepted and ResolvedRefs that the controllers of Gateways have set for the current spec."""
    generation = route["metadata"].get("generation", 0)
    return [
        RouteAnswer(
            parent.get("parentRef", {}).get("name", ""),
            one["type"],
            one["status"],
            one.get("reason", ""),
            one.get("message", ""),
        )
        for parent in (route.get("status") or {}).get("parents") or []
        for one in parent.get("conditions") or []
        if one["type"] in ("Accepted", "ResolvedRefs") and one.get("observedGeneration", generation) >= generation
    ]


def observed_revision(found: Object) -> ObservedRevision:
    metadata = found["metadata"]
    try:
        rendering = stored(found.get("data"))
    except msgspec.ValidationError:
        rendering = None
    revision = metadata["labels"].get(REVISION, "")
    return ObservedRevision(revision, found.get("revision", 0), rendering, ref_of(found), metadata["uid"])


def observed_pod(
    found: Object, failed_mount: Callable[[str], FailedCreate | None] = lambda uid: None
) -> ObservedPod | None:
    group = group_of(found)
    labels = found["metadata"].get("labels") or {}
    if group is None:
        return None
    metadata, status = found["metadata"], found.get("status") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or []}
    ready = conditions.get("Ready", {})
    created = seconds_of(metadata.get("creationTimestamp")) or 0.0
    disruption = conditions.get("DisruptionTarget", {})
    statuses = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return ObservedPod(
        group=group,
        role=labels.get(ROLE, ""),
        rank=int(labels.get(POD_INDEX) or metadata["name"].rpartition("-")[2]),
        ref=ref_of(found),
        uid=metadata["uid"],
        created=created,
        node=found.get("spec", {}).get("nodeName") or "",
        scheduled=conditions.get("PodScheduled", {}).get("status") == "True" or bool(found["spec"].get("nodeName")),
        ready=ready.get("status") == "True",
        ready_since=seconds_of(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None,
        terminating="deletionTimestamp" in metadata,
        gone_by=seconds_of(metadata.get("deletionTimestamp")),
        serving=labels.get(SERVING, ""),
        evicted="deletionTimestamp" in metadata
        and disruption.get("status") == "True"
        and disruption.get("reason") in _EVICTIONS,
        node_lost="deletionTimestamp" in metadata
        and disruption.get("status") == "True"
        and disruption.get("reason") == "DeletionByTaintManager",
        restarts=sum(one.get("restartCount", 0) for one in statuses if one["name"] == CONTAINER),
        failure=_failure(status, conditions, statuses, created)
        or _mount_failure(statuses, failed_mount(metadata["uid"])),
    )


def _mount_failure(statuses: list[Object], failed: FailedCreate | None) -> PodFailure | None:
    """Why a volume cannot be mounted, while no container has started."""
    waits = all("waiting" in (one.get("state") or {}) for one in statuses)
    return PodFailure(failed.time, "FailedMount", None, failed.message) if failed is not None and waits else None


def _failure(
    status: Object, conditions: Mapping[str, Object], statuses: list[Object], created: float
) -> PodFailure | None:
    """The pod's current failure, or else the last one."""
    if status.get("phase") == "Failed" and status.get("reason"):
        return PodFailure(created, status["reason"], None, status.get("message", ""))
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        since = seconds_of(scheduled.get("lastTransitionTime")) or created
        return PodFailure(since, scheduled.get("reason", "Unschedulable"), None, scheduled.get("message", ""))
    for one in statuses:
        waiting = (one.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in CANNOT_START:
            return PodFailure(created, waiting["reason"], None, waiting.get("message", ""))
    for one in statuses:
        for state in (one.get("state") or {}, one.get("lastState") or {}):
            ended = state.get("terminated")
            if ended and (ended.get("exitCode") != 0 or ended.get("reason") == "OOMKilled"):
                when = seconds_of(ended.get("finishedAt")) or created
                return PodFailure(when, ended.get("reason") or "Error", ended.get("exitCode"), ended.get("message", ""))
    return None
