"""`gllm run`: the manifest's first group as processes of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from gllm_operator.build.singletons import make_keys
from gllm_operator.local.kubelet import run_group
from gllm_operator.local.manifest import objects_of, read_deployments
from gllm_operator.local.pod_processes import PodProcess, host_paths, processes_of
from gllm_operator.local.table import Table


def run(path: str, mounts: Mapping[str, str], out: TextIO) -> int:
    """Raises ValueError, in one line, if it cannot start."""
    deployments = read_deployments(path)
    if len(deployments) > 1:
        names = ", ".join(one["metadata"]["name"] for one in deployments)
        raise ValueError(f"{path} has several LLMDeployments ({names}): give a file with one")
    (deployment,) = deployments
    replicas = deployment["spec"].get("replicas", 1)
    if deployment["spec"].get("suspend") or replicas == 0:
        raise ValueError(f"{path} asks for no groups (replicas 0, or suspend): there is nothing to run")
    if replicas > 1:
        print(f"one group of {replicas} is run here: all would need the same ports", file=out, flush=True)
    specs = prepare(deployment, mounts, out)
    table = Table(out, f"http://127.0.0.1:{specs[0].port}/v1")
    return asyncio.run(run_group(specs, table.show))


def prepare(deployment: dict[str, Any], mounts: Mapping[str, str], out: TextIO) -> list[PodProcess]:
    """The processes, with the model where it is on this machine."""
    objects = objects_of(deployment, keys=make_keys())
    mounts = host_paths(objects) | dict(mounts)
    specs = processes_of(objects, mounts)
    wanted = specs[0].arguments[1]
    source = deployment["spec"]["model"]
    if source["source"].startswith("hf://") and not Path(wanted).exists():
        return processes_of(objects, mounts | {wanted: _downloaded(source, out)})
    if Path(wanted).exists():
        return specs
    stand_in = _default_model(wanted)
    if stand_in is None:
        raise ValueError(f"there is no {wanted} on this machine: say where the model is with --mount {wanted}=PATH")
    print(f"there is no {wanted} here: the SmolLM2 that is installed stands in (--mount {wanted}=PATH)", file=out)
    return processes_of(objects, mounts | {wanted: stand_in})


def _downloaded(model: Mapping[str, str], out: TextIO) -> str:
    """Where the Hugging Face cache of this machine has the model of an hf:// source. Raises ValueError."""
    from gllm.hub.download import find_on_hub
    from gllm.hub.name import parse_hub_name

    name = parse_hub_name(model["source"], model.get("revision", ""))
    if name is None:
        raise ValueError(f"model.source {model['source']} is not hf://ORGANIZATION/NAME")
    return str(find_on_hub(name, tell=lambda line: print(line, file=out, flush=True)))


def _default_model(wanted: str) -> str | None:
    """The model that `make serve` installs, for the examples, which ask for it by the path that the image has."""
    if not Path(wanted).name.lower().startswith("smollm2"):
        return None
    from gllm.checkpoint.default_model import default_model_path

    try:
        return str(default_model_path())
    except ValueError:
        return None
