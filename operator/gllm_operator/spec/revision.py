"""The part of a spec from which pods are rendered, and its hash: the revision."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec

from gllm_operator.api.engine import Engine
from gllm_operator.api.extras import Tracing
from gllm_operator.api.model import Model
from gllm_operator.api.parallelism import Accelerator, Parallelism
from gllm_operator.api.server import Network, Probes
from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.types import ApiObject, RawObject

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""The characters of a revision: no vowels, which could form words, and none that look alike."""
_LENGTH = 5
P = TypeVar("P", bound=ApiObject)


class PodSource(ApiObject, frozen=True, kw_only=True):
    """The part of a spec from which pods are rendered. Specs with an equal source have the same revision.

    A ControllerRevision stores it, with what was rendered from it (build/rendering.py). Fields that have their default
    are left out, so that a new field does not change existing revisions.
    """

    model: Model
    parallelism: Parallelism
    accelerator: Accelerator
    engine: Engine
    image: str
    image_pull_policy: str | None
    image_pull_secrets: tuple[str, ...]
    template: RawObject
    master: RawObject
    slave: RawObject
    port: int
    api_key: RawObject
    network: Network
    probes: Probes
    run_as_user: int
    service_account: str
    drain_timeout: int
    node_loss_seconds: int
    engine_port: int = 0
    """The port of spec.gateway; 0: no gateways."""
    tracing: Tracing | None = None
    restart: str = ""
    """The value of the annotation gllm.dev/restart."""


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
        engine_port=0 if spec.gateway is None else spec.gateway.engine_port,
        tracing=spec.monitoring.tracing,
        restart=restart,
    )
    return _normal(source)


def _normal(part: P) -> P:
    """Replace values that equal their default by the default object. msgspec leaves out defaults by identity, and a
    1800 that the API server filled in is a different object."""
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
    """The data of a ControllerRevision; `source_of` is the inverse."""
    record: dict[str, Any] = msgspec.to_builtins(source)
    return record


def source_of(record: object) -> PodSource:
    """Raises msgspec.ValidationError if another version of the operator wrote a record that this one cannot decode."""
    return msgspec.convert(record, PodSource)


def revision_of(source: PodSource, rendered: object = None) -> str:
    """rendered: the pods as rendered from the source, so that another rendering is another revision."""
    text = msgspec.json.encode(source, order="deterministic")
    if rendered:
        text += msgspec.json.encode(rendered, order="sorted")
    number = int.from_bytes(hashlib.sha256(text).digest()[:8])
    letters = ""
    for _ in range(_LENGTH):
        number, letter = divmod(number, len(_ALPHABET))
        letters += _ALPHABET[letter]
    return letters
