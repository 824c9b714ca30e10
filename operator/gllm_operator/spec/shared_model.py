"""A further model of a deployment's gateways: that of an LLMDeployment whose gateway.parent names this deployment."""

from __future__ import annotations

from dataclasses import dataclass

from gllm_operator.api.gateway import Gateway
from gllm_operator.spec.revision import PodSource


@dataclass(frozen=True, slots=True)
class SharedModel:
    deployment: str
    """The name of the LLMDeployment."""
    gateway: Gateway
    source: PodSource
