"""Whether a node may join: everything that must be the same, and what to say when it is not."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gllm import __version__
from gllm.config import EngineConfig, NodesConfig
from gllm.wire.node_messages import PROTOCOL, Join, ModelDigest, ParallelConfig, Refuse

_FLAGS: Mapping[str, str] = {"nnodes": "--nnodes", "pp": "--pp", "tp": "--tp", "ep": "--ep",
                             "assigned_layers": "--assigned-layers"}  # fmt: skip


def shape_of(engine: EngineConfig, nodes: NodesConfig) -> ParallelConfig:
    return ParallelConfig(
        nnodes=nodes.nnodes, pp=engine.pp, tp=engine.tp, ep=engine.ep, assigned_layers=engine.assigned_layers
    )


def refusal_of_stranger(payload: bytes) -> Refuse | None:
    """For a Join of another protocol or version, which may not even decode; None if it is of ours, or no Join."""
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


def refusal_of(join: Join, shape: ParallelConfig, model: ModelDigest) -> Refuse | None:
    """Why a node with our protocol may not join; None if it may. Written from the slave's point of view."""
    different = [
        f"{flag} is {_text(getattr(join.shape, name))} here and {_text(getattr(shape, name))} on the master"
        for name, flag in _FLAGS.items()
        if getattr(join.shape, name) != getattr(shape, name)
    ]
    if different:
        return Refuse(f"the shape differs: {', '.join(different)}; start every node with the same", retry=False)
    if not 0 < join.node_rank < shape.nnodes:
        return Refuse(f"--node-rank {join.node_rank} is not one of 1 to {shape.nnodes - 1}", retry=False)
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
