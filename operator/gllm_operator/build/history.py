"""ControllerRevision: the record from which groups of a revision are rendered."""

from __future__ import annotations

from typing import Any

from gllm_operator.build.meta import metadata
from gllm_operator.names import REVISION, Owner
from gllm_operator.spec.revision import PodSource, record_of


def controller_revision(owner: Owner, source: PodSource, revision: str, number: int) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata(owner, f"{owner.name}-{revision}", {REVISION: revision}),
        "revision": number,
        "data": record_of(source),
    }
