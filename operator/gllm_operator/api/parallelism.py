"""spec.parallelism and spec.accelerator: how a model is divided, and over what."""

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
    """Stages (PP): the layers are divided among them. Stages may be on different pods."""
    tensor: Annotated[int, Meta(ge=1, le=64)] = 1
    """Ranks of a stage (TP): heads and columns are divided among them. They share a pod."""
    expert: Annotated[int, Meta(ge=1, le=64)] = 1
    """Groups over which a stage's experts are divided (EP); divides tensor."""


class Accelerator(ApiObject, frozen=True, kw_only=True):
    type: Literal["cuda", "cpu"] = "cuda"
    """cuda: each pod asks for perPod times resourceName. cpu: ranks compute on the pod's cores."""
    per_pod: Annotated[int, Meta(ge=1, le=64)] | None = None
    """Ranks of a pod, one a GPU; without it parallelism.tensor, so that every pod is one stage."""
    resource_name: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-z0-9.-]+/[\w.-]+$")] = (
        "nvidia.com/gpu"
    )
    """The extended resource that nodes with GPUs offer."""
    memory: Annotated[str, Meta(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?([KMGT]i?)?$")] | None = None
    """Memory of one accelerator, such as 80Gi: with it, and where the model's config can be read, a model that
    does not fit is refused before any pod starts, and status.estimate says how many tokens of KV cache there are."""
