"""spec of an LLMDeployment."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from gllm_operator.api.availability import Disruption, Recovery, Rollout
from gllm_operator.api.engine import Engine
from gllm_operator.api.extras import Autoscaling, Monitoring, Security
from gllm_operator.api.model import Model
from gllm_operator.api.parallelism import Accelerator, Parallelism
from gllm_operator.api.server import Network, Probes, Server
from gllm_operator.api.types import ApiObject, Free, Name, Rule

GROUP, VERSION, KIND, PLURAL, SHORT_NAME = "gllm.dev", "v1alpha1", "LLMDeployment", "llmdeployments", "llm"

LONGEST_NAME = 36
"""Of an LLMDeployment: the names of its StatefulSets add 16 characters, and have to stay within 52."""

ROOT_RULES: tuple[Rule, ...] = (
    Rule(
        f"size(self.metadata.name) <= {LONGEST_NAME}",
        f"metadata.name must have at most {LONGEST_NAME} characters: names of pods are made from it",
    ),
    Rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must begin with a letter and have only a-z, 0-9 and -: a Service bears it",
    ),
)


class LLMDeploymentSpec(ApiObject, frozen=True, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.accelerator.perPod) || self.accelerator.perPod % self.parallelism.tensor == 0",
            "accelerator.perPod must be a multiple of parallelism.tensor: the ranks of a stage share a pod",
        ),
        Rule(
            "!has(self.accelerator.perPod) || "
            "(self.parallelism.pipeline * self.parallelism.tensor) % self.accelerator.perPod == 0",
            "parallelism.pipeline x parallelism.tensor must be a multiple of accelerator.perPod: the ranks have to "
            "fill whole pods",
        ),
        Rule(
            "!has(self.network.rdma) || self.security.profile == 'Baseline'",
            "network.rdma locks memory, which the pod security standard Restricted forbids: set security.profile to "
            "Baseline",
        ),
        Rule(
            "!has(self.autoscaling) || !self.suspend",
            "autoscaling and suspend contradict each other: remove one of them",
        ),
        Rule(
            "self.server.port < self.network.masterPort || self.server.port > self.network.masterPort + 2",
            "server.port is one of the three ports from network.masterPort on: choose another",
        ),
    )

    replicas: Annotated[int, Meta(ge=0, le=256)] = 1
    """Groups: each is one pipeline that serves the whole model. What `kubectl scale` and autoscalers set."""
    model: Model
    """What is served, and where its files come from."""
    parallelism: Parallelism = Parallelism()
    """How a group divides the model. Editing it re-shards: new groups take over from the old ones."""
    accelerator: Accelerator = Accelerator()
    """What the ranks of a group compute on."""
    engine: Engine = Engine()
    """Settings of the scheduler and of memory."""
    image: Annotated[str, Meta(max_length=512)] | None = None
    """Image of the runtime; without it the operator's default."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled; without it Kubernetes' own choice."""
    image_pull_secrets: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()
    """Names of Secrets for the image's registry."""
    template: Free = field(default_factory=dict)
    """A PodTemplateSpec that is laid over the pods of both roles: objects merge, containers, volumes and env merge by
    name, volumeMounts by mountPath, null removes. The serving container is called gllm."""
    master: Free = field(default_factory=dict)
    """The same for master pods only, after template."""
    slave: Free = field(default_factory=dict)
    """The same for slave pods only, after template."""
    server: Server = Server()
    """How clients reach it."""
    network: Network = Network()
    """How its ranks reach each other."""
    probes: Probes = Probes()
    """What counts as progress."""
    rollout: Rollout = Rollout()
    """How changes reach the groups: new ones come up beside the old ones, take over, and the old ones drain."""
    recovery: Recovery = Recovery()
    """What happens to a group that breaks."""
    autoscaling: Autoscaling | None = None
    """Makes an autoscaler that sets spec.replicas."""
    disruption: Disruption = Disruption()
    """What evictions may do (a PodDisruptionBudget)."""
    security: Security = Security()
    """What the pods may do, and who may talk to them."""
    monitoring: Monitoring = Monitoring()
    """Whether Prometheus finds it."""
    suspend: bool = False
    """No groups, as with replicas 0, but replicas stays as it is. The spec is still checked and estimated."""

    @property
    def effective_replicas(self) -> int:
        """The number of groups that the spec asks for."""
        return 0 if self.suspend else self.replicas
