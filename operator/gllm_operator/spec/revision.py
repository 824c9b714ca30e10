"""What a group's pods are made from, and its short name: the revision. Pure."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec

from gllm_operator.api.engine import Engine
from gllm_operator.api.model import Model
from gllm_operator.api.parallelism import Accelerator, Parallelism
from gllm_operator.api.server import Network, Probes
from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.types import ApiObject, Free

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""No vowels, so that no word comes out, and nothing that looks like another."""
_LENGTH = 5
P = TypeVar("P", bound=ApiObject)


class PodSource(ApiObject, frozen=True, kw_only=True):
    """The part of a spec that pods are made from. Two specs with the same are the same revision.

    It is kept in a ControllerRevision, so that a group of an old revision can be rendered as long as there is one.
    Fields with their default are left out: a new field does not change old revisions.
    """

    model: Model
    parallelism: Parallelism
    accelerator: Accelerator
    engine: Engine
    image: str
    image_pull_policy: str | None
    image_pull_secrets: tuple[str, ...]
    template: Free
    master: Free
    slave: Free
    port: int
    api_key: Free
    network: Network
    probes: Probes
    run_as_user: int
    service_account: str
    drain_timeout: int
    node_loss_seconds: int
    restart: str = ""
    """The annotation gllm.dev/restart."""


def pod_source(spec: LLMDeploymentSpec, name: str, default_image: str, restart: str = "") -> PodSource:
    reference = spec.server.api_key_secret_ref
    source = PodSource(
        model=spec.model,
        parallelism=spec.parallelism,
        accelerator=spec.accelerator,
        engine=spec.engine,
        image=spec.image or default_image,
        image_pull_policy=spec.image_pull_policy,
        image_pull_secrets=spec.image_pull_secrets,
        template=spec.template,
        master=spec.master,
        slave=spec.slave,
        port=spec.server.port,
        api_key=msgspec.to_builtins(reference) if reference is not None else {},
        network=spec.network,
        probes=spec.probes,
        run_as_user=spec.security.run_as_user,
        service_account=spec.security.service_account_name or name,
        drain_timeout=spec.rollout.drain_timeout_seconds,
        node_loss_seconds=spec.recovery.node_loss_seconds,
        restart=restart,
    )
    return _normal(source)


def _normal(part: P) -> P:
    """With the very objects of defaults where values equal them: msgspec leaves out defaults by identity, and a 1800
    that the API server filled in is another object than ours."""
    values = {}
    for field in msgspec.structs.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, ApiObject):
            value = _normal(value)
        elif isinstance(value, tuple):
            value = tuple(_normal(one) if isinstance(one, ApiObject) else one for one in value)
        values[field.name] = field.default if value == field.default else value
    return msgspec.structs.replace(part, **values)


def record_of(source: PodSource) -> dict[str, Any]:
    """As it is kept; `source_of` is the way back."""
    record: dict[str, Any] = msgspec.to_builtins(source)
    return record


def source_of(record: object) -> PodSource:
    """Raises msgspec.ValidationError if another version of the operator wrote what this one cannot read."""
    return msgspec.convert(record, PodSource)


def revision_of(source: PodSource) -> str:
    text = msgspec.json.encode(source, order="deterministic")
    number = int.from_bytes(hashlib.sha256(text).digest()[:8])
    letters = ""
    for _ in range(_LENGTH):
        number, letter = divmod(number, len(_ALPHABET))
        letters += _ALPHABET[letter]
    return letters
