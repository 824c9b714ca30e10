"""Several LLMDeployments of a manifest behind the gateway of one of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gllm_operator.build import gateway
from gllm_operator.controller.sharing import parent_of
from gllm_operator.local.manifest import Manifest
from gllm_operator.local.pod_processes import PodProcess
from gllm_operator.names import engines_name


def parent_first(deployments: Sequence[Manifest]) -> list[Manifest]:
    """Return the deployments, the one with the gateway first. Raises ValueError unless the others share its gateway."""
    parents = [one for one in deployments if parent_of(one) is None]
    children = [one for one in deployments if parent_of(one) is not None]
    names = ", ".join(one["metadata"]["name"] for one in deployments)
    if len(parents) != 1 or (children and not parents[0]["spec"].get("gateway")):
        raise ValueError(
            f"{names}: several LLMDeployments need one gateway: give one of them spec.gateway, and the others "
            "spec.gateway.parent with its name"
        )
    return [parents[0], *children]


def find_models(processes: Sequence[PodProcess], groups: Mapping[str, Sequence[PodProcess]]) -> list[PodProcess]:
    """Let the gateway find the further models of its --also on this machine.

    groups: the processes of each deployment, the master first, by the deployment's name.
    """
    return [_localized(one, groups) if one.role == gateway.CONTAINER else one for one in processes]


def _localized(process: PodProcess, groups: Mapping[str, Sequence[PodProcess]]) -> PodProcess:
    arguments = list(process.arguments)
    for at, flag in enumerate(process.arguments[:-1]):
        if flag == "--also":
            arguments[at + 1] = _local_model(arguments[at + 1], groups)
    return replace(process, arguments=tuple(arguments))


def _local_model(text: str, groups: Mapping[str, Sequence[PodProcess]]) -> str:
    """All processes have the same keys here, and models are where their groups have them."""
    flags = shlex.split(text)
    places, keys = flags.index("--engines") + 1, flags.index("--keys-file")
    host, _, port = flags[places].rpartition(":")
    master = next(found[0] for name, found in groups.items() if host.startswith(f"{engines_name(name)}."))
    flags[0], flags[places] = master.arguments[1], f"{master.address}:{port}"
    del flags[keys : keys + 2]
    return shlex.join(flags)
