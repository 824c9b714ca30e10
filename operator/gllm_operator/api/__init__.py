"""LLMDeployment, `gllm.dev/v1alpha1`, as typed Python classes. The CRD is generated from them."""

from gllm_operator.api.spec import GROUP, KIND, PLURAL, SHORT_NAME, VERSION, LLMDeploymentSpec
from gllm_operator.api.status import Condition, GroupStatus, LLMDeploymentStatus

__all__ = [
    "GROUP",
    "KIND",
    "PLURAL",
    "SHORT_NAME",
    "VERSION",
    "Condition",
    "GroupStatus",
    "LLMDeploymentSpec",
    "LLMDeploymentStatus",
]
