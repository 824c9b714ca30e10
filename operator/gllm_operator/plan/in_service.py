"""Which masters get new requests.

A group that has lost a process or a pod keeps its requests, and new ones would wait with them for minutes. So while
another group serves, its master leaves the Service, by a label; otherwise it stays, and requests wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from gllm_operator.plan.actions import PodLabel
from gllm_operator.plan.groups import Group
from gllm_operator.plan.observed import Observed


def labels_to_set(staying: Sequence[Group]) -> tuple[PodLabel, ...]:
    serving = {group.name for group in staying if group.ready}
    found = []
    for group in staying:
        recovers = group.has_served and not group.ready
        wanted = "false" if recovers and serving else "true"
        for pod in group.pods:
            if pod.role == "master" and not pod.terminating and pod.serving != wanted:
                found.append(PodLabel(pod.ref, pod.uid, wanted))
    return tuple(found)


def all_labelled(observed: Observed) -> bool:
    """Whether every master has the label, so that the Service may select by it. An earlier version set none."""
    return all(pod.serving for pod in observed.pods if pod.role == "master" and not pod.terminating)
