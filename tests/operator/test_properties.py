"""Random specs, edits, failures and crashes of the operator: invariants after every write, and the final state."""

from __future__ import annotations

import random
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from fixtures.kube_memory import Crash
from fixtures.kube_world import NODES, ready_masters
from fixtures.operator_harness import SPEC, OperatorHarness
from gllm_operator.names import MANAGED_BY, MANAGER, ROLE
from gllm_operator.objects import Object

SPECS = st.fixed_dictionaries(
    {
        "replicas": st.integers(0, 4),
        "image": st.sampled_from(["gllm:1", "gllm:2", "gllm:3"]),
        "parallelism": st.sampled_from([{}, {"pipeline": 2}, {"pipeline": 4, "tensor": 2}]),
        "rollout": st.tuples(st.integers(0, 2), st.integers(0, 2), st.booleans())
        .filter(lambda one: one[0] + one[1] > 0)
        .map(
            lambda one: {
                "maxSurge": one[0],
                "maxUnavailable": one[1],
                "rollbackOnFailure": one[2],
                "progressDeadlineSeconds": 120,
            }
        ),
        "recovery": st.fixed_dictionaries(
            {"deadlineSeconds": st.sampled_from([10, 60]), "lostPods": st.sampled_from(["Replace", "Keep"])}
        ),
        "suspend": st.sampled_from([False, False, False, True]),
    }
)

ACTIONS = st.one_of(
    st.tuples(st.just("edit"), SPECS),
    st.tuples(st.just("scale"), st.integers(0, 4)),
    st.tuples(
        st.sampled_from(["world", "pass", "wait", "wait long", "crash pod", "unready", "delete pod", "evict pod"]),
        st.none(),
    ),
    st.tuples(
        st.sampled_from(["delete object", "edit object", "restart operator", "lose node", "find nodes", "cordon"]),
        st.none(),
    ),
    st.tuples(st.just("crash operator"), st.integers(0, 12)),
)


class Watched(OperatorHarness):
    """Checks the invariants after every write of the operator."""

    def __init__(self, spec: dict[str, Any], seed: int) -> None:
        super().__init__(spec, seed)
        self.chance = random.Random(seed)
        self.foreign = [self.api.put(one) for one in _foreign_objects()]
        self.crash_after: int | None = None
        self.names: set[str] = set()
        self.meddled: set[str] = set()
        self.before: dict[Any, Object] = {}
        self.api.fail = self.on_write

    def on_write(self, verb: str, name: str, done: bool) -> None:
        if not done:
            self.before = dict(self.api.objects)
        else:
            self.check_write()
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                self.crash_after = None
                raise Crash

    def check_write(self) -> None:
        assert self.deployment is None or self.deployment["metadata"].get("generation")
        for where, old in self.before.items():
            new = self.api.objects.get(where)
            gone = new is None or (
                "deletionTimestamp" in new["metadata"] and "deletionTimestamp" not in old["metadata"]
            )
            if gone and old["kind"] == "StatefulSet" and old["metadata"]["labels"][ROLE] == "master":
                self.check_drain(old)
        for where, new in self.api.objects.items():
            if (
                where not in self.before
                and new["kind"] == "StatefulSet"
                and new["metadata"]["labels"][ROLE] == "master"
            ):
                self.check_surge()
                self.check_name(new["metadata"]["name"])

    def spec_now(self) -> tuple[int, int, int]:
        assert self.deployment is not None
        spec = self.deployment["spec"]
        rollout = spec.get("rollout", {})
        replicas = 0 if spec.get("suspend") else spec["replicas"]
        return replicas, rollout.get("maxSurge", 1), rollout.get("maxUnavailable", 0)

    def check_surge(self) -> None:
        """At most replicas + maxSurge groups that hold pods, including draining ones."""
        replicas, surge, _ = self.spec_now()
        held = 0
        for one in self.sets():
            draining = "deletionTimestamp" in one["metadata"]
            held += not draining or self._holds_pods(one)
        names = [(one["metadata"]["name"], "deletionTimestamp" in one["metadata"]) for one in self.sets()]
        assert held <= replicas + surge, f"{held} groups with replicas {replicas}, maxSurge {surge}: {names}"

    def check_name(self, name: str) -> None:
        """No name is used twice, unless its set was deleted by hand."""
        assert name not in self.names or name in self.meddled, name
        self.names.add(name)

    def check_drain(self, old: Object) -> None:
        """A serving group drains only if enough others serve."""
        if self.deployment is None or "deletionTimestamp" in self.deployment["metadata"]:
            return
        replicas, _, unavailable = self.spec_now()
        served = [
            pod
            for pod in self.before.values()
            if pod["kind"] == "Pod"
            and pod["metadata"]["labels"]["gllm.dev/group"] == old["metadata"]["labels"]["gllm.dev/group"]
            and pod in ready_masters(self.api)
        ]
        if served:
            groups = {
                one["metadata"]["labels"]["gllm.dev/group"]
                for one in self.sets()
                if "deletionTimestamp" not in one["metadata"]
            }
            left = [pod for pod in ready_masters(self.api) if pod["metadata"]["labels"]["gllm.dev/group"] in groups]
            assert len(left) >= max(0, replicas - unavailable), f"{len(left)} left of {replicas}"

    def _holds_pods(self, one: Object) -> bool:
        group = one["metadata"]["labels"]["gllm.dev/group"]
        pods = [pod for pod in self.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/group"] == group]
        return not pods or any(pod["spec"].get("nodeName") not in self.world.lost_nodes for pod in pods)

    # --- failures -----------------------------------------------------------------------------------

    def act(self, action: str, argument: Any) -> None:
        pods = self.api.of_kind("Pod")
        match action:
            case "edit":
                self.edit(lambda one: one.update(argument))
            case "scale":
                self.edit(lambda one: one.update(replicas=argument))
            case "world":
                self.world.step()
            case "wait":
                self.now += self.chance.uniform(0, 15)
            case "wait long":
                self.now += self.chance.uniform(60, 4000)
            case "crash pod" if pods:
                self.world.crash(self.chance.choice(pods))
            case "unready" if pods:
                self.world.set_ready(self.chance.choice(pods), False)
            case "delete pod" if pods:
                self.world.delete_pod(self.chance.choice(pods))
            case "evict pod" if pods:
                self.world.evict(self.chance.choice(pods))
            case "delete object" | "edit object":
                self._meddle(action)
            case "restart operator":
                self.start_operator()
            case "lose node" if len(self.world.lost_nodes) < 2:
                self.world.lost_nodes.add(self.chance.choice(NODES))
            case "cordon" if len(self.world.cordoned) < 2:
                self.world.cordoned.add(self.chance.choice(NODES))
            case "find nodes":
                self.world.lost_nodes.clear()
                self.world.cordoned.clear()
            case "crash operator":
                self.crash_after = argument
        self.run_pass()

    def _meddle(self, action: str) -> None:
        mine = [
            one
            for one in self.api.objects.values()
            if (one["metadata"].get("labels") or {}).get(MANAGED_BY) == MANAGER and one["kind"] not in ("Pod",)
            if one not in self.foreign
        ]
        if not mine:
            return
        one = self.chance.choice(mine)
        if action == "delete object":
            self.meddled.add(one["metadata"]["name"])
            self.api.begin_delete(one)
        else:
            self.api.edit(
                one,
                lambda held: held["metadata"].update(labels=held["metadata"]["labels"] | {"x": "y"}),
                manager="kubectl-edit",
            )


def _foreign_objects() -> list[Object]:
    """Objects with the operator's labels that another owner controls."""
    labels = {MANAGED_BY: MANAGER, "gllm.dev/deployment": "smol"}
    return [
        {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"name": f"foreign-{kind.lower()}", "namespace": "default", "labels": labels},
            "spec": {},
        }
        for api_version, kind in (
            ("v1", "Service"),
            ("policy/v1", "PodDisruptionBudget"),
            ("autoscaling/v2", "HorizontalPodAutoscaler"),
        )
    ]


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(spec=SPECS, actions=st.lists(ACTIONS, max_size=30), seed=st.integers(0, 2**32))
def test_invariants_hold_and_the_spec_is_reached(spec: dict[str, Any], actions: list[Any], seed: int) -> None:
    harness = Watched(SPEC | spec, seed)
    for action, argument in actions:
        harness.act(action, argument)
        assert all(one in harness.api.objects.values() for one in harness.foreign), "touched what is another's"
    # Without further failures, the deployment reaches the state that the spec asks for.
    harness.world.lost_nodes.clear()
    harness.world.cordoned.clear()
    harness.crash_after = None
    for _ in range(12):
        harness.run_until_quiet()
        harness.now += 5000
    replicas, _, _ = harness.spec_now()
    status = harness.status
    assert status.ready == f"{replicas}/{replicas}", status
    assert len(harness.sets()) == replicas
    assert {group.phase for group in status.groups} <= {"Ready"}
    if status.failed_revision != status.update_revision and replicas:
        assert {group.revision for group in status.groups} == {status.update_revision}
    before = len(harness.api.writes)
    harness.run_pass()
    assert harness.api.writes[before:] == [], "the same plan twice is not empty"
    assert all(one in harness.api.objects.values() for one in harness.foreign)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(spec=SPECS, step=st.integers(0, 60), seed=st.integers(0, 2**32))
def test_a_rollout_survives_a_crash_between_any_two_writes(spec: dict[str, Any], step: int, seed: int) -> None:
    harness = Watched(SPEC | spec | {"suspend": False}, seed)
    harness.run_until_quiet()
    harness.edit(lambda one: one.update(image="gllm:new"))
    harness.crash_after = step
    harness.run_until_quiet()
    replicas, _, _ = harness.spec_now()
    assert harness.status.ready == f"{replicas}/{replicas}"
    assert len(harness.sets()) == replicas
