"""Probes of the serving container, and the times of its end.

Liveness does not depend on other pods: while one is lost its master waits for it, and a restart of the master would
lose the waiting requests. `/health` fails only when the engine makes no progress and its recovery has timed out.

There is no preStop hook: SIGTERM comes at once, and the gateway itself serves on for the drain delay.
"""

from __future__ import annotations

from typing import Any

from gllm_operator.spec.revision import PodSource

DRAIN_DELAY_SECONDS = 5
"""Seconds from the start of a pod's deletion in which nodes may still send it new connections, which it serves."""
_GRACE_SECONDS = 20
"""Seconds after the drain timeout for processes to end."""
_LIVENESS_PERIOD = 10

READY = "/ready?recovering=true"
"""A recovering group stays in the Service, and new requests wait in its gateway. Otherwise those of a deployment with
one group would be refused. A gateway that does not answer is removed at once."""
_PROBE = ["python3", "-m", "gllm.supervisor.probe"]


def probes(source: PodSource, role: str) -> dict[str, Any]:
    """startupProbe, readinessProbe and livenessProbe of the serving container."""
    settings = source.probes
    period = settings.period_seconds
    if role == "master":
        startup, ready, live = http_probe("/health"), http_probe(READY), http_probe("/health")
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
    }


def termination_grace(source: PodSource) -> int:
    return DRAIN_DELAY_SECONDS + source.drain_timeout + _GRACE_SECONDS


def http_probe(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http", "scheme": "HTTP"}}


def _times(seconds: int, period: int) -> int:
    return max(1, -(-seconds // period))
