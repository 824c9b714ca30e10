"""The rendered StatefulSets of a revision, independent of a group. A ControllerRevision stores them.

A group is made from a revision and never changes. So its StatefulSets are made from what was stored with the revision,
and not rendered again: another version of the operator may render the same source in another way. For such a version
the spec has another revision, which it rolls out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gllm_operator.build.group import group_sets, stateful_set
from gllm_operator.names import INDEX, INSTANCE, REVISION, ROLE, GroupId, Owner, metadata
from gllm_operator.spec.revision import PodSource, record_of, revision_of, source_of

_ANY = GroupId(0, "@REVISION@", 0)
"""Stands for the group. No field of a pod can contain its name otherwise."""


@dataclass(frozen=True)
class Rendering:
    source: PodSource
    sets: Mapping[str, dict[str, Any]]
    """The spec of the StatefulSet of each role, of the group `_ANY`. Empty: only the source is stored, as by
    earlier versions."""
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The data of the ControllerRevision from which it was read. They never change: a version of the operator with
    other fields or defaults would encode the same source differently, and the API server would refuse that."""

    @property
    def revision(self) -> str:
        return revision_of(self.source, self.sets)

    def sets_of(self, owner: Owner, group: GroupId) -> list[dict[str, Any]]:
        if not self.sets:
            return group_sets(owner, self.source, group)
        text = json.dumps(self.sets).replace(_ANY.name(owner.name), group.name(owner.name))
        sets = json.loads(text.replace(_ANY.revision, group.revision))
        for spec in sets.values():
            spec["template"]["metadata"]["labels"] |= {INDEX: str(group.index), INSTANCE: str(group.instance)}
        return [stateful_set(owner, group, role, spec) for role, spec in sets.items()]

    def data(self) -> Mapping[str, Any]:
        """The data of a ControllerRevision; `stored` is the inverse."""
        if self.record:
            return self.record
        source = record_of(self.source)
        return {"source": source, "sets": self.sets} if self.sets else source


def render(owner: Owner, source: PodSource) -> Rendering:
    sets = {one["metadata"]["labels"][ROLE]: one["spec"] for one in group_sets(owner, source, _ANY)}
    return Rendering(source, sets)


def stored(record: object) -> Rendering:
    """Raises msgspec.ValidationError if another version of the operator wrote a record that this one cannot decode."""
    if isinstance(record, dict) and "sets" in record:
        sets = msgspec.convert(record["sets"], dict[str, dict[str, Any]])
        return Rendering(source_of(record.get("source")), sets, record)
    return Rendering(source_of(record), {}, msgspec.convert(record, dict[str, Any]))


def controller_revision(owner: Owner, rendering: Rendering, revision: str, number: int) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata(owner, f"{owner.name}-{revision}", {REVISION: revision}),
        "revision": number,
        "data": rendering.data(),
    }
