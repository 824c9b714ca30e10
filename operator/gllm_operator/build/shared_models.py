"""What gateway pods need for each further model: its arguments, files, keys, and a label by which its Service finds
the pods that serve it. During a rollout of the gateways only new pods have the label."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from gllm_operator.api.gateway import Gateway
from gllm_operator.build.model_source import PLACE, ModelFiles, model_files, served_name
from gllm_operator.build.pod import download
from gllm_operator.build.secret_files import SecretFile, link_keys
from gllm_operator.names import engines_name, shared_gateways_selector
from gllm_operator.spec.revision import PodSource
from gllm_operator.spec.shared_model import SharedModel


def engines_place(deployment: str, namespace: str, source: PodSource) -> str:
    """The value of --engines: the DNS name of all masters."""
    return f"{engines_name(deployment)}.{namespace}.svc:{source.engine_port}"


def queue_args(source: PodSource) -> tuple[str, ...]:
    queued = source.engine.max_queued_requests
    return () if queued is None else ("--max-queued-requests", str(queued))


def wait_args(gateway: Gateway) -> tuple[str, ...]:
    return ("--wait-for-engine",) if gateway.idle_seconds else ()


def also_args(namespace: str, shared: Iterable[SharedModel]) -> list[str]:
    arguments = []
    for one in shared:
        own = [
            _files(one).path,
            *("--engines", engines_place(one.deployment, namespace, one.source), "--keys-file", _keys(one).path),
            *("--served-model-name", served_name(one.source.model), *queue_args(one.source)),
            *("--engine-timeout", str(one.gateway.wait_seconds), *wait_args(one.gateway), *one.gateway.extra_args),
        ]
        arguments += ["--also", shlex.join(own)]
    return arguments


def shared_labels(shared: Iterable[SharedModel]) -> dict[str, str]:
    return {key: value for one in shared for key, value in shared_gateways_selector(one.deployment).items()}


def shared_volumes(shared: Iterable[SharedModel]) -> list[dict[str, Any]]:
    return [volume for one in shared for volume in (*_files(one).volumes, _keys(one).volume)]


def shared_mounts(shared: Iterable[SharedModel]) -> list[dict[str, Any]]:
    return [mount for one in shared for mount in (*_files(one).mounts, _keys(one).mount)]


def shared_downloads(source: PodSource, shared: Iterable[SharedModel]) -> list[dict[str, Any]]:
    """Init containers with the image and user of the gateway's own source."""
    return [download(source, f"fetch-model-{one.deployment}", _files(one)) for one in shared if _files(one).download]


def _files(one: SharedModel) -> ModelFiles:
    return model_files(one.source.model, f"{PLACE}-{one.deployment}")


def _keys(one: SharedModel) -> SecretFile:
    return link_keys(one.deployment, f"link-keys-{one.deployment}")
