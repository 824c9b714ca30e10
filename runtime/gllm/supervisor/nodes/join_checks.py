"""Whether a node may join: the settings and files that must be equal on all nodes, and the reasons to refuse."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gllm import __version__
from gllm.config import EngineConfig, NodesConfig
from gllm.wire.node_messages import PROTOCOL, Join, ModelDigest, ParallelConfig, Refuse

_FLAGS: Mapping[str, str] = {
    "nnodes": "--nnodes",
    "pp": "--pp",
    "tp": "--tp",
    "ep": "--ep",
    "assigned_layers": "--assigned-layers",
}


def parallel_config_of(engine: EngineConfig, nodes: NodesConfig) -> ParallelConfig:
    return ParallelConfig(
        nnodes=nodes.nnodes, pp=engine.pp, tp=engine.tp, ep=engine.ep, assigned_layers=engine.assigned_layers
    )


def refusal_of_other_version(payload: bytes) -> Refuse | None:
    """Refuse a `Join` of another protocol or version, which may not decode. None for our version and other messages."""
    try:
        message = msgspec.msgpack.decode(payload)
    except msgspec.DecodeError:
        return None
    match message:
        case ["Join", int(protocol), str(version), *_] if (protocol, version) != (PROTOCOL, __version__):
            return Refuse(
                f"the version differs: gLLM {version[:40]} (protocol {protocol}) here, "
                f"gLLM {__version__} (protocol {PROTOCOL}) on the master; install the same on every node",
                retry=False,
            )
    return None


def refusal_of(join: Join, parallel: ParallelConfig, model: ModelDigest) -> Refuse | None:
    """Return why a node with our protocol may not join, None if it may. In the text, "here" is the slave."""
    different = [
        f"{flag} is {_text(getattr(join.parallel, name))} here and {_text(getattr(parallel, name))} on the master"
        for name, flag in _FLAGS.items()
        if getattr(join.parallel, name) != getattr(parallel, name)
    ]
    if different:
        return Refuse(f"the parallel sizes differ: {', '.join(different)}; start every node with the same", retry=False)
    if not 0 < join.node_rank < parallel.nnodes:
        return Refuse(f"--node-rank {join.node_rank} is not one of 1 to {parallel.nnodes - 1}", retry=False)
    if join.model.config != model.config:
        return Refuse("the model differs: its configuration is another one than on the master", retry=False)
    if join.model != model:
        return Refuse(
            f"the model differs: {join.model.num_tensors} tensors of {join.model.num_bytes} bytes here, "
            f"{model.num_tensors} of {model.num_bytes} on the master"
            + (" (other names, types or shapes)" if join.model.num_bytes == model.num_bytes else ""),
            retry=False,
        )
    return None


def _text(value: object) -> str:
    return ",".join(map(str, value)) or "not set" if isinstance(value, tuple) else str(value)
