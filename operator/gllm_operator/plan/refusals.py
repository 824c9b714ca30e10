"""What the API server refuses: which writes wait for their next attempt, and what the status says about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from gllm_operator.build.rendering import Rendering
from gllm_operator.names import parse_set_name
from gllm_operator.objects import Manifest, ObjectRef, digest, ref_of
from gllm_operator.plan.actions import Delete
from gllm_operator.plan.groups import Group
from gllm_operator.plan.observed import CREATION, DELETION, Observed, Refusal

Kind = Literal["CannotWrite", "Rejected"]

_CIRCUMSTANCES = ("exceeded quota", "serviceaccount", "failed calling webhook", "failed quota")
"""Words in the refusal of a pod that blame the namespace and not the pod."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A refusal in the words of the status. Rejected: the object is at fault; CannotWrite: the circumstances are."""

    reason: Kind
    message: str
    revision: str = ""
    """The revision whose pods are refused; empty if it is another object."""


def waits(observed: Observed, ref: ObjectRef, manifest_digest: str, now: float) -> bool:
    """Whether a refused write has to wait: the object has not changed since, and the next attempt is not due.
    manifest_digest: that of the manifest, or CREATION or DELETION."""
    refusal = observed.refused.get(ref)
    if refusal is None or refusal.digest != manifest_digest or now >= refusal.retry_at:
        return False
    owned = observed.owned.get(ref)
    return refusal.held == (("", "") if owned is None else (owned.uid, owned.fields_digest))


def due_deletes(observed: Observed, deletes: Iterable[Delete], now: float) -> tuple[Delete, ...]:
    return tuple(one for one in deletes if not waits(observed, one.ref, DELETION, now))


def rejected(observed: Observed, revision: str) -> tuple[ObjectRef, Refusal] | None:
    """The refusal of a StatefulSet of this revision as invalid."""
    return next(
        (
            (ref, refusal)
            for ref, refusal in sorted(observed.refused.items())
            if refusal.invalid and revision_of_set(ref) == revision
        ),
        None,
    )


def probes(
    observed: Observed, rendering: Rendering, ref: ObjectRef, refusal: Refusal, now: float
) -> tuple[Manifest, ...]:
    """The StatefulSets that are tried without writing them, if the next attempt is due: as long as they are refused,
    nothing drains for their sake."""
    parsed = parse_set_name(ref.name)
    if parsed is None or now < refusal.retry_at:
        return ()
    return tuple(rendering.sets_of(observed.owner, parsed[1]))


def obstacles(
    observed: Observed,
    creates: Iterable[Manifest],
    desired: Iterable[Manifest],
    deletes: Iterable[Delete],
    groups: Sequence[Group],
) -> tuple[Obstacle, ...]:
    """Objects that could not be written or deleted, and pods that their StatefulSets could not create."""
    wanted = {ref_of(manifest): digest(manifest) for manifest in desired} | {one.ref: DELETION for one in deletes}
    wanted |= {ref_of(manifest): CREATION for manifest in creates}
    found = [
        Obstacle(_kind(ref, refusal), f"{ref.kind} {ref.name}: {refusal.message}", revision_of_set(ref))
        for ref, refusal in sorted(observed.refused.items())
        if wanted.get(ref) == refusal.digest
    ]
    for group in groups:
        if group.failed_create is not None and not group.draining:
            text = group.failed_create.message
            kind: Kind = "CannotWrite" if any(word in text.lower() for word in _CIRCUMSTANCES) else "Rejected"
            found.append(Obstacle(kind, f"pods of group {group.name}: {text}", group.id.revision))
    return tuple(found)


def forgotten(
    observed: Observed, wanted: Iterable[Manifest], deletes: Iterable[Delete], kept: str
) -> tuple[ObjectRef, ...]:
    """Refusals that no longer matter. kept: the revision whose refusals matter also while nothing is written."""
    refs = {ref_of(manifest) for manifest in wanted} | {one.ref for one in deletes}
    return tuple(ref for ref in observed.refused if ref not in refs and revision_of_set(ref) != kept)


def revision_of_set(ref: ObjectRef) -> str:
    """The revision of a StatefulSet; empty for other objects."""
    parsed = parse_set_name(ref.name) if ref.kind == "StatefulSet" else None
    return "" if parsed is None else parsed[1].revision


def _kind(ref: ObjectRef, refusal: Refusal) -> Kind:
    return "Rejected" if refusal.invalid and ref.kind == "StatefulSet" else "CannotWrite"
