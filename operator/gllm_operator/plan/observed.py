"""What is, as plain data: everything that `plan` may look at. `observe.py` makes it from Kubernetes objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from gllm_operator.api.spec import LLMDeploymentSpec
from gllm_operator.api.status import LLMDeploymentStatus
from gllm_operator.names import GroupId, Owner
from gllm_operator.spec.revision import PodSource

if TYPE_CHECKING:
    from gllm.models.config import ModelConfig


class Key(NamedTuple):
    """Names an object in a namespace."""

    api_version: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Child:
    """An object that bears our labels."""

    key: Key
    uid: str
    owned: str = ""
    """Fingerprint of the fields that are the operator's by server-side apply: it changes when somebody edits one."""
    controlled: bool = True
    """Whether the LLMDeployment is its controller."""
    terminating: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """What the operator last wrote, and how it looked then."""

    digest: str
    uid: str
    owned: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the API server did not take an object."""

    digest: str
    message: str
    final: bool
    """Whether the same object will be refused again (it is invalid, or its name is taken)."""


@dataclass(frozen=True, slots=True)
class SetFacts:
    group: GroupId
    role: str
    key: Key
    uid: str
    replicas: int
    created: float
    terminating: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container last ended, or why it does not start."""

    time: float
    reason: str
    code: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class PodFacts:
    group: GroupId
    role: str
    rank: int
    key: Key
    uid: str
    created: float
    node: str = ""
    scheduled: bool = False
    ready: bool = False
    ready_since: float | None = None
    terminating: bool = False
    gone_by: float | None = None
    """When it should be gone at the latest, if it is terminating."""
    given_up: bool = False
    """It is terminating because its node is lost: nobody will confirm that it ended."""
    restarts: int = 0
    trouble: Exit | None = None


@dataclass(frozen=True, slots=True)
class RevisionFacts:
    revision: str
    number: int
    source: PodSource | None
    """None: written by a version of the operator that this one cannot read."""
    key: Key
    uid: str


@dataclass(frozen=True)
class Observed:
    owner: Owner
    generation: int = 1
    spec: LLMDeploymentSpec | None = None
    """None: it cannot be read, see spec_error."""
    spec_error: str = ""
    restart: str = ""
    """The annotation gllm.dev/restart."""
    status: LLMDeploymentStatus = field(default_factory=LLMDeploymentStatus)
    deleting_since: float | None = None
    has_finalizer: bool = True
    sets: tuple[SetFacts, ...] = ()
    pods: tuple[PodFacts, ...] = ()
    revisions: tuple[RevisionFacts, ...] = ()
    children: Mapping[Key, Child] = field(default_factory=dict)
    """Of every kind, StatefulSets and ControllerRevisions too; pods are not among them."""
    applied: Mapping[Key, Applied] = field(default_factory=dict)
    refused: Mapping[Key, Refusal] = field(default_factory=dict)
    apis: frozenset[str] = frozenset()
    """Of the optional ones, those that the cluster has."""
    keys_known: bool = True
    """Whether the Secret of the keys is known to be there."""
    fresh_keys: str = ""
    """Keys to make the Secret with, if it has to be made: chance is an input."""
    default_image: str = ""
    model: ModelConfig | None = None
    """The model's config, if the operator can read it."""
    in_flight: Mapping[str, int] = field(default_factory=dict)
    """Requests of a group by its name, where its master was asked and answered."""
    loaded: Mapping[str, float] = field(default_factory=dict)
    """Share of the weights that a group has loaded, 0 to 1, by its name; likewise."""
