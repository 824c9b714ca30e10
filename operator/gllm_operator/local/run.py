"""`gllm run`: runs the first group of each LLMDeployment of a manifest, and a gateway if it has any, as processes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from gllm_operator.build.singletons import make_keys
from gllm_operator.local.kubelet import run_group
from gllm_operator.local.manifest import objects_of, read_deployments
from gllm_operator.local.pod_processes import PodProcess, front_of, host_paths, processes_of
from gllm_operator.local.shared_gateway import find_models, parent_first
from gllm_operator.local.table import PodTable


def run(path: str, mounts: Mapping[str, str], out: TextIO) -> int:
    """Return the exit status. Raises ValueError, in one line, if a group cannot start."""
    deployments = parent_first(read_deployments(path))
    keys, groups = make_keys(), {}
    for place, one in enumerate(deployments):
        name, replicas = one["metadata"]["name"], one["spec"].get("replicas", 1)
        if one["spec"].get("suspend") or replicas == 0:
            raise ValueError(f"{name} asks for no groups (replicas 0, or suspend): there is nothing to run")
        if replicas > 1:
            print(f"runs one group of {replicas}, because all would need the same ports", file=out, flush=True)
        groups[name] = prepare(one, mounts, out, keys=keys, namespace=deployments, place=place)
    specs = find_models([spec for found in groups.values() for spec in found], groups)
    with PodTable(out, front_of(specs)) as table:
        return asyncio.run(run_group(specs, table.show))


def prepare(
    deployment: dict[str, Any],
    mounts: Mapping[str, str],
    out: TextIO,
    *,
    keys: str = "",
    namespace: Sequence[dict[str, Any]] = (),
    place: int = 0,
) -> list[PodProcess]:
    """Return the processes of a deployment, with the model's path on this machine.

    keys: those of all deployments of the manifest, `namespace`. place: as in `processes_of`.
    """
    objects = objects_of(deployment, keys=keys or make_keys(), namespace=namespace)

    def processes(more: Mapping[str, str]) -> list[PodProcess]:
        return processes_of(objects, {**host_paths(objects), **mounts, **more}, place, shared=len(namespace) > 1)

    specs = processes({})
    model_path = specs[0].arguments[1]
    source = deployment["spec"]["model"]
    if source["source"].startswith("hf://") and not Path(model_path).exists():
        return processes({model_path: _downloaded(source, out)})
    if Path(model_path).exists():
        return specs
    stand_in = _default_model(model_path)
    if stand_in is None:
        raise ValueError(
            f"there is no {model_path} on this machine: name the model's path with --mount {model_path}=PATH"
        )
    print(f"there is no {model_path} here: uses the installed SmolLM2 instead (--mount {model_path}=PATH)", file=out)
    return processes({model_path: stand_in})


def _downloaded(model: Mapping[str, str], out: TextIO) -> str:
    """Return the path of an hf:// model in the Hugging Face cache, downloaded if necessary. Raises ValueError."""
    from gllm.hub.download import find_on_hub
    from gllm.hub.name import parse_hub_name

    name = parse_hub_name(model["source"], model.get("revision", ""))
    if name is None:
        raise ValueError(f"model.source {model['source']} is not hf://ORGANIZATION/NAME")
    return str(find_on_hub(name, report=lambda line: print(line, file=out, flush=True)))


def _default_model(model_path: str) -> str | None:
    """The model that `make serve` installs. The examples name it by its path in the image."""
    if not Path(model_path).name.lower().startswith("smollm2"):
        return None
    from gllm.hub.default_model import default_model_path

    try:
        return str(default_model_path())
    except ValueError:
        return None
