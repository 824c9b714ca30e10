"""Reads a manifest and renders the objects that the operator would apply on an empty cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from gllm_operator.api import GROUP, KIND, VERSION
from gllm_operator.build.integrations import OPTIONAL_APIS
from gllm_operator.controller.observe import observe
from gllm_operator.controller.sharing import sharing
from gllm_operator.names import FINALIZER
from gllm_operator.plan import plan
from gllm_operator.plan.validate import problems

Manifest = dict[str, Any]

ALL_APIS = frozenset(OPTIONAL_APIS)
NO_UID = "00000000-0000-0000-0000-000000000000"
DEFAULT_IMAGE = "gllm:dev"
"""The image if neither the manifest nor a flag names one."""


def read_deployments(path: str, namespace: str = "default") -> list[Manifest]:
    """Return the LLMDeployments in a file of YAML documents. Raises ValueError, in one line, with the fix."""
    try:
        documents = list(yaml.safe_load_all(Path(path).read_text()))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    found = [one for one in documents if isinstance(one, dict) and one.get("kind") == KIND]
    if not found:
        raise ValueError(f"{path} has no {KIND}: kind: {KIND}, apiVersion: {GROUP}/{VERSION}")
    for one in found:
        if one.get("apiVersion") != f"{GROUP}/{VERSION}":
            raise ValueError(f"{path}: apiVersion is {one.get('apiVersion')}, not {GROUP}/{VERSION}")
        metadata = one.setdefault("metadata", {})
        if not isinstance(metadata, dict) or not metadata.get("name"):
            raise ValueError(f"{path}: metadata.name is missing")
        metadata.setdefault("namespace", namespace)
        metadata |= {"uid": NO_UID, "generation": 1, "finalizers": [FINALIZER]}
    return found


def objects_of(
    deployment: Manifest,
    *,
    keys: str,
    default_image: str = DEFAULT_IMAGE,
    apis: frozenset[str] = frozenset(),
    namespace: Sequence[Manifest] = (),
) -> list[Manifest]:
    """Return the objects that the operator's plan would create and apply. Raises ValueError if the spec is invalid.

    namespace: further LLMDeployments, with which it may share gateways.
    """
    observed = observe(
        deployment,
        [],
        applied={},
        refused={},
        apis=apis,
        keys_known=False,
        fresh_keys=keys,
        default_image=default_image,
        sharing=sharing(deployment, namespace or [deployment], lambda name: (), default_image),
    )
    if observed.spec is None:
        raise ValueError(observed.spec_error)
    image = observed.spec.image or default_image
    found = problems(observed.spec, observed.owner.name, image, observed.model)
    if found:
        raise ValueError("; ".join(found))
    made = plan(observed, 0.0)
    return [*made.creates, *made.applies]


def without_owner(manifest: Manifest) -> Manifest:
    """Remove the owner reference: only the API server knows the owner's uid."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "ownerReferences"}
    return manifest | {"metadata": metadata}


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(manifests: list[Manifest]) -> str:
    return yaml.dump_all(manifests, Dumper=_Plain, sort_keys=False, width=120)
