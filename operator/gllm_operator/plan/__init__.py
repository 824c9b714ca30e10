"""From what is wanted and what is to what is to be done. Pure: no IO, no clock, no chance."""

from gllm_operator.plan.plan import plan
from gllm_operator.plan.types import Delete, Event, Plan

__all__ = ["Delete", "Event", "Plan", "plan"]
