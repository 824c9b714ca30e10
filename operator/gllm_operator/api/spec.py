"""The spec of an LLMDeployment."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from gllm_operator.api.availability import Disruption, Recovery, Rollout
from gllm_operator.api.engine import Engine
from gllm_operator.api.extras import Autoscaling, Monitoring, ObjectMeta, Security
from gllm_operator.api.gateway import Gateway
from gllm_operator.api.model import Model
from gllm_operator.api.parallelism import Accelerator, Parallelism
from gllm_operator.api.route import Route
from gllm_operator.api.server import Network, Probes, Server
from gllm_operator.api.types import ApiObject, Name, RawObject, Rule

GROUP, VERSION, KIND, PLURAL, SHORT_NAME = "gllm.dev", "v1alpha1", "LLMDeployment", "llmdeployments", "llm"

LONGEST_NAME = 36
"""The longest name of an LLMDeployment. The names of its StatefulSets have 16 more characters, and at most 52."""

ROOT_RULES: tuple[Rule, ...] = (
    Rule(
        f"size(self.metadata.name) <= {LONGEST_NAME}",
        f"metadata.name must have at most {LONGEST_NAME} characters, because the names of pods are derived from it",
        ".metadata.name",
    ),
    Rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must begin with a letter and contain only a-z, 0-9 and -, because a Service has the same name",
        ".metadata.name",
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
            "!has(self.image) || self.image != ''",
            "image is empty: name an image, or leave the field out for the operator's runtime image",
            ".image",
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
            "!has(self.autoscaling) || !has(self.gateway) || self.gateway.idleSeconds == 0",
            "autoscaling and gateway.idleSeconds both decide when there are no groups: remove one of them",
        ),
        Rule(
            "self.server.port < self.network.masterPort || self.server.port > self.network.masterPort + 2",
            "server.port is one of the three ports from network.masterPort on: choose another",
        ),
        Rule(
            "!has(self.gateway) || (self.gateway.enginePort != self.server.port && "
            "(self.gateway.enginePort < self.network.masterPort || "
            "self.gateway.enginePort > self.network.masterPort + 2))",
            "gateway.enginePort is server.port, or one of the three ports from network.masterPort on: choose another",
        ),
    )

    replicas: Annotated[int, Meta(ge=0, le=256)] = 1
    """The number of groups. Each group serves the whole model with its own pipeline. `kubectl scale` and autoscalers
    set this field."""
    model: Model
    """The model to serve, and the source of its files."""
    parallelism: Parallelism = Parallelism()
    """How a group divides the model. A change re-shards it: new groups replace the old ones without losing requests."""
    accelerator: Accelerator = Accelerator()
    """The devices on which the ranks of a group compute."""
    engine: Engine = Engine()
    """Settings of the scheduler and of memory."""
    image: Annotated[str, Meta(max_length=512)] | None = None
    """The image of the runtime. Defaults to the operator's runtime image."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """The pull policy of the image. Defaults to that of Kubernetes."""
    image_pull_secrets: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()
    """Names of Secrets with credentials for the image's registry."""
    template: RawObject = field(default_factory=dict)
    """A PodTemplateSpec that is merged into the pods of both roles. Objects merge; containers, volumes and env merge by
    name, volumeMounts by mountPath; null removes a field. The serving container is called gllm."""
    master: RawObject = field(default_factory=dict)
    """A PodTemplateSpec that is merged into the master pods only, after template."""
    slave: RawObject = field(default_factory=dict)
    """A PodTemplateSpec that is merged into the slave pods only, after template."""
    object_meta: ObjectMeta = ObjectMeta()
    """Labels and annotations of all objects that the operator creates, as policies of a cluster may demand them. Those
    of pods are in template.metadata, since a change of pods needs new groups."""
    server: Server = Server()
    """How clients reach the deployment."""
    route: Route | None = None
    """A route of the Gateway API to the deployment, with weights for canaries; the Gateway owns TLS and the hosts."""
    gateway: Gateway | None = None
    """Gateways in pods of their own. The Service leads to them, and they choose a group for each request: by cached
    prefix, then by predicted wait. When a group is lost, its requests continue in another one. Without it, each group
    has its own gateway, and the Service chooses one for each connection."""
    network: Network = Network()
    """How the ranks of a group reach each other."""
    probes: Probes = Probes()
    """Deadlines by which the pods must make progress."""
    rollout: Rollout = Rollout()
    """How changes reach the groups. New groups start beside the old ones and replace them; the old ones drain."""
    recovery: Recovery = Recovery()
    """What happens to groups that break."""
    autoscaling: Autoscaling | None = None
    """An autoscaler that sets spec.replicas."""
    disruption: Disruption = Disruption()
    """How groups leave nodes that are drained, and how many of them evictions may take (a PodDisruptionBudget)."""
    security: Security = Security()
    """The privileges of the pods, and the network traffic that they accept."""
    monitoring: Monitoring = Monitoring()
    """How Prometheus finds the deployment."""
    suspend: bool = False
    """Whether the deployment has no groups, as with replicas 0, while replicas keeps its value. The spec is still
    checked and its memory estimated."""

    @property
    def effective_replicas(self) -> int:
        """The number of groups that the spec asks for."""
        return 0 if self.suspend else self.replicas
