"""spec.parallelism and spec.accelerator: how a model is divided, and among which devices."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from gllm_operator.api.types import ApiObject, Rule


class Parallelism(ApiObject, frozen=True, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.tensor % self.expert == 0",
            "parallelism.expert must divide parallelism.tensor: the experts of a stage are divided among its ranks",
        ),
    )

    pipeline: Annotated[int, Meta(ge=1, le=128)] = 1
    """The number of pipeline stages (PP), among which the layers are divided. Stages may be on different pods."""
    tensor: Annotated[int, Meta(ge=1, le=64)] = 1
    """The number of tensor-parallel ranks of a stage (TP), among which heads and columns are divided. They share a
    pod."""
    expert: Annotated[int, Meta(ge=1, le=64)] = 1
    """The number of groups of a stage's ranks among which experts are divided (EP). It must divide tensor."""


class Accelerator(ApiObject, frozen=True, kw_only=True):
    type: Literal["cuda", "cpu"] = "cuda"
    """cuda: each pod requests perPod units of resourceName. cpu: ranks compute on the pod's cores."""
    per_pod: Annotated[int, Meta(ge=1, le=64)] | None = None
    """The number of ranks of a pod, each with one accelerator. Defaults to parallelism.tensor, so that every pod is one
    stage."""
    resource_name: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-z0-9.-]+/[\w.-]+$")] = (
        "nvidia.com/gpu"
    )
    """The extended resource of the accelerators."""
    memory: Annotated[str, Meta(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?([KMGT]i?)?$")] | None = None
    """The memory of one accelerator, such as 80Gi. If it is set and the operator can read the model's config, a model
    that does not fit is refused before any pod starts, and status.estimate has the number of KV cache tokens."""
