"""The numbers of stages, ranks and pods of a group."""

from __future__ import annotations

from dataclasses import dataclass

from gllm_operator.api.parallelism import Accelerator, Parallelism


@dataclass(frozen=True, slots=True)
class ParallelConfig:
    pipeline: int
    tensor: int
    expert: int
    per_pod: int

    @property
    def world(self) -> int:
        return self.pipeline * self.tensor

    @property
    def pods(self) -> int:
        return self.world // self.per_pod

    @property
    def summary(self) -> str:
        parts = f"PP{self.pipeline}xTP{self.tensor}"
        return parts + (f"xEP{self.expert}" if self.expert > 1 else "")


def parallel_config(parallelism: Parallelism, accelerator: Accelerator) -> ParallelConfig:
    """Raises ValueError, with the fix, if the ranks do not fill whole pods. The CRD's rules check the same earlier."""
    shape = ParallelConfig(
        parallelism.pipeline,
        parallelism.tensor,
        parallelism.expert,
        accelerator.per_pod or parallelism.tensor,
    )
    if shape.tensor % shape.expert:
        raise ValueError(
            f"parallelism.expert {shape.expert} does not divide parallelism.tensor {shape.tensor}: the experts of a "
            f"stage are divided among its ranks"
        )
    if shape.per_pod % shape.tensor:
        raise ValueError(
            f"accelerator.perPod {shape.per_pod} is not a multiple of parallelism.tensor {shape.tensor}: the ranks of "
            f"a stage share a pod"
        )
    if shape.world % shape.per_pod:
        raise ValueError(
            f"{shape.world} ranks (pipeline {shape.pipeline} x tensor {shape.tensor}) do not fill pods of "
            f"{shape.per_pod}: set accelerator.perPod to a divisor"
        )
    return shape
