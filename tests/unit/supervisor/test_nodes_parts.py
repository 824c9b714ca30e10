"""Parts of a group with several nodes: placement, addresses, digests, checks of a join, settings."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
import typer

from fixtures.tiny_models import write_gguf, write_hf
from gllm import __version__
from gllm.apps.cli.nodes import make_nodes
from gllm.checkpoint.model_digest import digest_model
from gllm.config import Config, EngineConfig, NodesConfig
from gllm.supervisor.nodes.addresses import address_towards, interface_of, is_wildcard, resolve_by
from gllm.supervisor.nodes.join_checks import parallel_config_of, refusal_of, refusal_of_other_version
from gllm.supervisor.nodes.placement import check_nodes, ranks_of, rendezvous_of, worker_environment
from gllm.wire.node_messages import PROTOCOL, Join, ModelDigest, ParallelConfig
from gllm.wire.transport import encode

# --- placement -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pp", "tp", "nnodes"), [(1, 1, 1), (2, 1, 2), (4, 2, 2), (4, 2, 4), (6, 3, 2)])
def test_stages_are_spread_evenly_in_order_and_no_stage_is_split(pp: int, tp: int, nnodes: int) -> None:
    engine, nodes = EngineConfig(model="", pp=pp, tp=tp), NodesConfig(nnodes=nnodes)
    ranks = [list(ranks_of(node, engine, nodes)) for node in range(nnodes)]
    assert [rank for some in ranks for rank in some] == list(range(pp * tp))
    assert {len(some) for some in ranks} == {pp * tp // nnodes}
    assert all(some[0] % tp == 0 for some in ranks)


def test_a_workers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    nodes = NodesConfig(nnodes=2, node_rank=1, master_addr="10.0.0.1", master_port=7000, node_addr="10.0.0.2")
    config = Config(engine=EngineConfig(model="", pp=4, tp=2), nodes=nodes)
    assert rendezvous_of(config) == ("10.0.0.1", 7002)
    assert worker_environment(config, 6, rendezvous_of(config), "eth0") == {
        "RANK": "6",
        "LOCAL_RANK": "2",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "7002",
        "GLOO_SOCKET_IFNAME": "eth0",
        "NCCL_SOCKET_IFNAME": "ib0",
    }
    assert config.worker_address == "tcp://10.0.0.1:7001"
    assert config.worker_bind_address == "tcp://10.0.0.2:7001"
    v6 = msgspec.structs.replace(config, nodes=msgspec.structs.replace(nodes, master_addr="fd00::1"))
    assert v6.worker_address == "tcp://[fd00::1]:7001"


# --- addresses -----------------------------------------------------------------------------------------


def test_a_name_that_resolves_late_is_waited_for() -> None:
    asked: list[float] = []

    def late(host: str) -> str:
        asked.append(time.monotonic())
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return "10.1.2.3"

    assert asyncio.run(resolve_by("pod-0.group", time.monotonic() + 10, late)) == "10.1.2.3"
    assert len(asked) == 3

    def never(host: str) -> str:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(OSError, match=r"^--master-addr pod-0\.group has no address: Name or service not known"):
        asyncio.run(resolve_by("pod-0.group", time.monotonic() + 1, never))


def test_own_addresses() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert interface_of("127.0.0.2") == "lo"
    assert interface_of("192.0.2.55") is None
    assert interface_of("") is None
    assert is_wildcard("0.0.0.0")
    assert not is_wildcard("10.0.0.1")


# --- digests -------------------------------------------------------------------------------------------


def test_digests_depend_on_the_content_and_not_on_the_path(tmp_path: Path) -> None:
    one = write_hf("llama", tmp_path / "one")
    same = write_hf("llama", tmp_path / "same", seed=1)
    other = write_hf("llama", tmp_path / "other", hidden_size=32)
    digest = digest_model(str(one))
    assert digest.num_tensors > 10
    assert digest.num_bytes > 10_000
    assert digest_model(str(same)) == digest, "values are not compared: that would read all files"
    assert digest_model(str(other)).config != digest.config
    sharded = write_hf("llama", tmp_path / "sharded", sharded=True)
    assert digest_model(str(sharded)).tensors == digest.tensors
    assert digest_model(str(one), weights=False).tensors == ""
    write_gguf(one, tmp_path / "a.gguf", "Q8_0")
    write_gguf(one, tmp_path / "b.gguf", "Q4_0")
    assert digest_model(str(tmp_path / "a.gguf")) != digest_model(str(tmp_path / "b.gguf"))
    assert digest_model(str(tmp_path / "a.gguf")) == digest_model(str(tmp_path / "a.gguf"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json"):
        digest_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a safetensors file"):
        digest_model(str(tmp_path))


# --- joining -------------------------------------------------------------------------------------------

PARALLEL = ParallelConfig(nnodes=2, pp=4, tp=2, ep=1, assigned_layers=())
MODEL = ModelDigest(config="c", tensors="t", num_tensors=10, num_bytes=1000)


def join(**changes: object) -> Join:
    return msgspec.structs.replace(
        Join(protocol=PROTOCOL, version=__version__, node_rank=1, host="10.0.0.2", parallel=PARALLEL, model=MODEL),
        **changes,
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"parallel": ParallelConfig(nnodes=2, pp=2, tp=2, ep=1, assigned_layers=())},
            "--pp is 2 here and 4 on the master",
        ),
        (
            {"parallel": ParallelConfig(nnodes=2, pp=4, tp=2, ep=1, assigned_layers=(1, 2))},
            "--assigned-layers is 1,2 here and not set on the master",
        ),
        (
            {"parallel": ParallelConfig(nnodes=3, pp=6, tp=2, ep=1, assigned_layers=())},
            "--nnodes is 3 here and 2 on the master, --pp is 6",
        ),
        ({"node_rank": 2}, "--node-rank 2 is not one of 1 to 1"),
        (
            {"model": ModelDigest(config="x", tensors="t", num_tensors=10, num_bytes=1000)},
            "its configuration is another one",
        ),
        (
            {"model": ModelDigest(config="c", tensors="x", num_tensors=9, num_bytes=900)},
            "9 tensors of 900 bytes here, 10 of 1000 on the master",
        ),
        (
            {"model": ModelDigest(config="c", tensors="x", num_tensors=10, num_bytes=1000)},
            "other names, types or shapes",
        ),
    ],
)
def test_refusals_name_the_difference(changes: dict[str, object], reason: str) -> None:
    refusal = refusal_of(join(**changes), PARALLEL, MODEL)
    assert refusal is not None
    assert reason in refusal.reason
    assert not refusal.retry


def test_a_node_with_equal_settings_may_join() -> None:
    assert refusal_of(join(), PARALLEL, MODEL) is None
    assert refusal_of_other_version(encode(join())) is None
    assert refusal_of_other_version(b"\xc1") is None
    assert parallel_config_of(EngineConfig(model="", pp=4, tp=2), NodesConfig(nnodes=2)) == PARALLEL


def test_another_version_is_refused_even_if_its_message_does_not_decode() -> None:
    newer = msgspec.msgpack.encode(["Join", PROTOCOL + 1, "7.0", {"all": "new"}])
    refusal = refusal_of_other_version(newer)
    assert refusal is not None
    assert f"gLLM 7.0 (protocol {PROTOCOL + 1}) here, gLLM {__version__} (protocol {PROTOCOL})" in refusal.reason


# --- settings ------------------------------------------------------------------------------------------

ENVIRONMENT = {
    "NNODES": "2",
    "NODE_RANK": "1",
    "MASTER_ADDR": "pod-0.group",
    "MASTER_PORT": "7000",
    "GLLM_NODE_ADDR": "10.0.0.2",
    "GLLM_JOIN_TIMEOUT": "30",
}
PP2 = EngineConfig(model="", pp=2)


def nodes(environment: Mapping[str, str], **flags: object) -> NodesConfig:
    return make_nodes(flags, PP2, environment)


def test_the_environment_counts_only_if_there_are_nodes() -> None:
    assert nodes(ENVIRONMENT) == NodesConfig()
    made = nodes(ENVIRONMENT | {"GLLM_LAUNCH_MODE": "slave", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"})
    assert made == NodesConfig(
        launch_mode="slave",
        nnodes=2,
        node_rank=1,
        master_addr="pod-0.group",
        master_port=7000,
        node_addr="10.0.0.2",
        join_timeout=30.0,
    )


def test_a_single_node_may_serve_gateways_of_other_machines() -> None:
    expected = NodesConfig(engine_port=7100, node_addr="10.0.0.2")
    assert nodes(ENVIRONMENT | {"GLLM_ENGINE_PORT": "7100"}) == expected
    assert nodes(ENVIRONMENT, engine_port=7100) == expected


def test_flags_win_over_the_environment() -> None:
    made = nodes(ENVIRONMENT | {"GLLM_LAUNCH_MODE": "slave"}, launch_mode="master", node_rank=0, master_port=9000)
    assert (made.launch_mode, made.node_rank, made.master_port, made.nnodes) == ("master", 0, 9000, 2)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4 in the environment, but --pp 2, --tp 1 and --nnodes 2 make 2"),
        ({"LOCAL_WORLD_SIZE": "2"}, "LOCAL_WORLD_SIZE=2 in the environment"),
        ({"MASTER_PORT": "tcp://10.0.0.9:80"}, "MASTER_PORT=tcp://10.0.0.9:80 in the environment is not a number"),
        ({"MASTER_PORT": "65534"}, "three ports"),
        ({"NODE_RANK": "2"}, "give 1 to 1"),
        ({"GLLM_LAUNCH_MODE": "boss"}, "GLLM_LAUNCH_MODE=boss"),
        ({"MASTER_ADDR": ""}, "at which address or DNS name"),
    ],
)
def test_settings_that_do_not_fit_are_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(typer.BadParameter, match=message.replace("(", r"\(")):
        nodes(ENVIRONMENT | {"GLLM_LAUNCH_MODE": "slave"} | environment)


def test_the_default_is_one_node() -> None:
    check_nodes(EngineConfig(model=""), NodesConfig())
