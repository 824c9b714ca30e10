"""`gllm status`: what it prints of an LLMDeployment, and how it follows one."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest

from fixtures.operator_harness import SPEC, OperatorHarness
from gllm_operator.kube.api import ApiError
from gllm_operator.objects import Object
from gllm_operator.show import status as show_status
from gllm_operator.show import tables


def recovering() -> OperatorHarness:
    harness = OperatorHarness(SPEC)
    harness.run_until_quiet()
    slave = next(pod for pod in harness.api.of_kind("Pod") if pod["metadata"]["labels"]["gllm.dev/role"] == "slave")
    harness.world.crash(slave, 137, "loading\nout of memory")
    harness.now += 200
    harness.run_pass()
    return harness


def test_the_text_has_the_cause_and_leaves_out_what_says_nothing() -> None:
    harness = recovering()
    assert harness.deployment is not None
    text = tables.plain(harness.deployment, harness.now)
    first, *lines = text.splitlines()
    assert first.startswith("llm/smol in default: GroupRecovering, ready 0/1, up to date 0, PP2xTP1, http://smol.")
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["Ready"][1:4] == ["False", "GroupRecovering", "0s"]
    assert rows["Degraded"][1] == "True"
    assert not {"Stalled", "RolledBack", "Suspended"} & set(rows)
    (group,) = harness.status.groups
    assert rows[group.name][1:3] == ["Recovering", "1/2"]
    assert "200s" not in rows[group.name]
    assert "3m" in rows[group.name]
    assert f"{group.name}-s-1: Error 137: out of memory" in text


def test_a_deployment_that_no_operator_has_seen() -> None:
    harness = OperatorHarness(SPEC)
    text = tables.plain(harness.deployment or {}, harness.now)
    assert "not seen by an operator yet" in text
    assert "has not seen generation 1 yet" in text


def test_changes_are_told_once() -> None:
    harness = OperatorHarness(SPEC)
    harness.run_until_quiet()
    before = harness.status
    assert tables.changes(before, before) == []
    harness.edit(lambda one: one.update(image="gllm:2"))
    harness.run_pass()
    lines = tables.changes(before, harness.status)
    assert any(line.startswith("Ready False RollingOut: revision") for line in lines)
    assert any(line.endswith("Pending 0/2") for line in lines)
    harness.run_until_quiet()
    assert f"group {before.groups[0].name} is gone" in tables.changes(before, harness.status)


class Server:
    """Lists and watches the given events; then its connection breaks, and it lists again."""

    def __init__(self, rounds: list[list[tuple[str, Object]]]) -> None:
        self.rounds = rounds

    async def list(self, *_: Any, fields: str) -> tuple[list[Object], str]:
        assert fields == "metadata.name=smol"
        if not self.rounds:
            return [], "9"
        return [self.rounds[0][0][1]], "1"

    async def watch(self, *_: Any) -> Any:
        for event in self.rounds.pop(0)[1:]:
            yield event
        raise ApiError(0, "Unreachable", "the connection breaks")


def test_it_follows_a_deployment_over_broken_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show_status, "_RETRY_SECONDS", 0.0)
    harness = OperatorHarness(SPEC)
    seen: list[tuple[str, Object]] = [("ADDED", harness.deployment or {})]
    for _ in range(6):
        harness.run_pass()
        harness.world.eager = True
        harness.world.step()
        harness.now += 1
        seen.append(("MODIFIED", harness.deployment or {}))
    out = io.StringIO()
    asyncio.run(show_status._watch(Server([seen[:4], seen[4:]]), "default", "smol", out))  # type: ignore[arg-type]
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("llm/smol in default")
    assert sum(line.startswith("Ready True AllGroupsReady") for line in lines) == 1
    assert lines[-1] == "llm/smol is gone"


def test_a_deployment_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ApiError, match="not found"):
        asyncio.run(show_status._watch(Server([]), "default", "smol", io.StringIO()))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["smol", "llm/smol", "llmdeployment/smol", "llmdeployments/smol"])
def test_targets(target: str) -> None:
    assert show_status._name_of(target) == "smol"


def test_a_target_of_another_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="give llm/NAME"):
        show_status._name_of("pod/smol")
