"""Flags that the operator sets, and that extraArgs must not contain."""

from __future__ import annotations

from gllm.apps.compat_flags import COMPAT_FLAGS, MODEL, canonical
from gllm_operator.api.types import Rule

RESERVED = frozenset(
    {
        MODEL,
        "--host",
        "--port",
        "--served-model-name",
        "--served-model-alias",
        "--revision",
        "--device",
        "--drain-timeout",
        "--drain-delay",
        "--pp",
        "--tp",
        "--ep",
        "--launch-mode",
        "--nnodes",
        "--node-rank",
        "--master-addr",
        "--master-port",
        "--node-addr",
        "--engine-port",
        "--join-timeout",
        "--heartbeat-timeout",
        "--recovery-timeout",
        "--step-timeout",
        "--keys-file",
        "--engines",
        "--engine-timeout",
        "--wait-for-engine",
        "--also",
        "--api-key",
        "--on-failure",
    }
)
"""By their names in gLLM."""


def is_reserved(argument: str) -> bool:
    """Whether an argument is such a flag, also under its name in vLLM or SGLang."""
    return argument.startswith("-") and canonical(argument.partition("=")[0]) in RESERVED


def no_reserved_flags(part: str) -> Rule:
    """A rule for the object at spec.PART, which has extraArgs."""
    others = {name for flag in COMPAT_FLAGS if flag.ours in RESERVED for name in flag.names}
    names = sorted(name for name in RESERVED | others if name != MODEL)
    return Rule(
        # Not a regular expression, whose cost would be beyond the API server's limit.
        f"!has(self.extraArgs) || self.extraArgs.all(one, !(one.split('=', 2)[0] in {names}))",
        f"{part}.extraArgs has a flag that other fields decide, such as --pp, --port or --api-key: remove it",
    )
