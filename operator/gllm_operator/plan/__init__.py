"""Pure function: desired and observed state give actions. No I/O, no clock, no randomness."""

from gllm_operator.plan.actions import Delete, Event, Plan, PodLabel
from gllm_operator.plan.plan import plan

__all__ = ["Delete", "Event", "Plan", "PodLabel", "plan"]
