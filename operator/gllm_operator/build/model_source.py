"""The path of a model in the container, and the volumes and download that provide it, from spec.model.source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gllm_operator.api.model import Model
from gllm_operator.build.secret_files import hub_token

PLACE = "models"
"""The name of the volume, and of the folder where it is mounted."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    path: str
    """The argument of `gllm serve`."""
    name: str
    """The default name of the model in requests."""
    volumes: tuple[dict[str, Any], ...] = ()
    mounts: tuple[dict[str, Any], ...] = ()
    download: tuple[str, ...] = ()
    """Arguments of `gllm` in an init container; empty: there is nothing to download."""
    download_env: tuple[dict[str, Any], ...] = ()
    download_mounts: tuple[dict[str, Any], ...] = ()
    """Further mounts of this init container."""


def model_files(model: Model, place: str = PLACE) -> ModelFiles:
    """place: another one for each further model of a container."""
    scheme, _, rest = model.source.partition("://")
    return {"file": _file, "pvc": _pvc, "hf": _hub, "oci": _image}[scheme](model, rest, place)


def served_name(model: Model) -> str:
    return model.served_names[0] if model.served_names else model_files(model).name


def _file(model: Model, rest: str, place: str) -> ModelFiles:
    path = rest.rstrip("/")
    return ModelFiles(path, _last(path))


def _pvc(model: Model, rest: str, place: str) -> ModelFiles:
    claim, _, inside = rest.partition("/")
    path = f"/{place}/{inside}".rstrip("/")
    return ModelFiles(
        path,
        _last(inside) or claim,
        ({"name": place, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},),
        ({"name": place, "mountPath": f"/{place}", "readOnly": True},),
    )


def _image(model: Model, rest: str, place: str) -> ModelFiles:
    reference, _, inside = rest.partition("#")
    path = f"/{place}/{inside.strip('/')}".rstrip("/")
    name = _last(inside) or _last(reference).partition("@")[0].partition(":")[0]
    return ModelFiles(
        path,
        name,
        ({"name": place, "image": {"reference": reference, "pullPolicy": "IfNotPresent"}},),
        ({"name": place, "mountPath": f"/{place}", "readOnly": True},),
    )


def _hub(model: Model, rest: str, place: str) -> ModelFiles:
    # The revision is part of the path, so that a shared cache holds several, and a download of one never mixes with
    # another.
    folder = f"/{place}/{rest}/{(model.revision or 'main').replace('/', '--')}"
    volume: dict[str, Any] = {"emptyDir": {}}
    if model.cache_claim is not None:
        volume = {"persistentVolumeClaim": {"claimName": model.cache_claim}}
    token = model.token_secret_ref
    files = () if token is None else (hub_token(token, "hub-token" + place.removeprefix(PLACE)),)
    revision = ("--revision", model.revision) if model.revision else ()
    return ModelFiles(
        folder,
        _last(rest),
        ({"name": place, **volume}, *(one.volume for one in files)),
        ({"name": place, "mountPath": f"/{place}"},),
        ("fetch", model.source, folder, *revision),
        tuple(one.env for one in files),
        tuple(one.mount for one in files),
    )


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
