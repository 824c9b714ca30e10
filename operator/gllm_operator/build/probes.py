"""Probes and the preStop hook of the serving container.

Liveness does not depend on other pods: while one is lost its master waits for it, and a restart of the master would
lose the waiting requests. `/health` fails only when the engine makes no progress and its recovery has timed out.
"""

from __future__ import annotations

from typing import Any

from gllm_operator.spec.revision import PodSource

PRE_STOP_SECONDS = 5
"""Seconds from the start of a pod's deletion to SIGTERM. Nodes may still send it requests, which it accepts."""
_GRACE_SECONDS = 20
"""Seconds after the drain timeout for processes to end."""
_LIVENESS_PERIOD = 10

_READY = "/ready?recovering=true"
"""A recovering group stays in the Service, and new requests wait in its gateway. Otherwise those of a deployment with
one group would be refused. A gateway that does not answer is removed at once."""
_PROBE = ["python3", "-m", "gllm.supervisor.probe"]


def probes(source: PodSource, role: str) -> dict[str, Any]:
    """startupProbe, readinessProbe, livenessProbe and lifecycle of the serving container."""
    settings = source.probes
    period = settings.period_seconds
    if role == "master":
        startup, ready, live = _http("/health"), _http(_READY), _http("/health")
    else:
        link, plans = str(source.network.master_port), str(source.network.master_port + 1)
        ready = {"exec": {"command": [*_PROBE, "joined", "--link-port", link, "--plans-port", plans]}}
        startup, live = ready, {"exec": {"command": [*_PROBE, "running"]}}
    return {
        "startupProbe": startup
        | {
            "periodSeconds": min(period, 2),
            "timeoutSeconds": 5,
            "failureThreshold": _times(settings.startup_deadline_seconds, min(period, 2)),
        },
        "readinessProbe": ready | {"periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": 1},
        "livenessProbe": live
        | {
            "periodSeconds": _LIVENESS_PERIOD,
            "timeoutSeconds": 10,
            "failureThreshold": _times(settings.stall_seconds, _LIVENESS_PERIOD),
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
    }


def termination_grace(source: PodSource) -> int:
    return source.drain_timeout + PRE_STOP_SECONDS + _GRACE_SECONDS


def _http(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http", "scheme": "HTTP"}}


def _times(seconds: int, period: int) -> int:
    return max(1, -(-seconds // period))
