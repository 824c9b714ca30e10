"""Problems of a spec, each with its fix. Repeats the CRD's rules, because the installed CRD may be older, and adds
checks of the pod templates, the extra arguments and, where its config is known, the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gllm.apps.compat_flags import canonical
from gllm_operator.api.gateway import Gateway
from gllm_operator.api.reserved import is_reserved as is_reserved_flag
from gllm_operator.api.spec import LONGEST_NAME, LLMDeploymentSpec
from gllm_operator.build.env import is_reserved
from gllm_operator.build.gateway import CONTAINER as GATEWAY_CONTAINER
from gllm_operator.build.pod import CONTAINER
from gllm_operator.objects import parse_quantity
from gllm_operator.spec.estimate import estimate
from gllm_operator.spec.parallel_config import parallel_config

if TYPE_CHECKING:
    from gllm.models.config import ModelConfig

_MOST_PROBLEMS = 5


def problems(spec: LLMDeploymentSpec, name: str, image: str, model: ModelConfig | None) -> list[str]:
    """Return at most five problems; empty if none can be found before pods start. image: spec.image or the default."""
    found = _name(name) + _image(image) + _bounds(spec)
    for field, template in (("template", spec.template), ("master", spec.master), ("slave", spec.slave)):
        found += _template(template, f"spec.{field}")
    found += _service(spec.server.service_template)
    found += _arguments(spec.engine.extra_args, "engine")
    if spec.gateway is not None:
        found += _template(spec.gateway.template, "spec.gateway.template", GATEWAY_CONTAINER)
        found += child_gateway(spec.gateway)
        found += _arguments(spec.gateway.extra_args, "gateway")
    try:
        parallel = parallel_config(spec.parallelism, spec.accelerator)
        if spec.accelerator.memory is not None:
            parse_quantity(spec.accelerator.memory)
    except ValueError as error:
        return [*found, str(error)][:_MOST_PROBLEMS]
    if model is not None:
        found += _parallelism_of_model(spec, model)
        fit = estimate(spec, parallel, model)
        if fit.fits == "No":
            found.append(f"the model does not fit: {fit.message}")
    return found[:_MOST_PROBLEMS]


def _name(name: str) -> list[str]:
    if len(name) > LONGEST_NAME:
        return [f"metadata.name has {len(name)} characters, at most {LONGEST_NAME} are allowed: choose a shorter one"]
    return []


def _image(image: str) -> list[str]:
    return [] if image else ["spec.image is not set, and the operator has no default image: set spec.image"]


def _bounds(spec: LLMDeploymentSpec) -> list[str]:
    found = []
    if spec.rollout.max_surge == 0 and spec.rollout.max_unavailable == 0:
        found.append("rollout.maxSurge and rollout.maxUnavailable are both 0, so nothing could change: raise one")
    if spec.network.rdma is not None and spec.security.profile != "Baseline":
        found.append("network.rdma needs security.profile Baseline")
    if spec.gateway is not None:
        first = spec.network.master_port
        if spec.gateway.engine_port in (spec.server.port, first, first + 1, first + 2):
            found.append(f"gateway.enginePort {spec.gateway.engine_port} is a port of the master already: change it")
    scaling = spec.autoscaling
    if scaling is not None and spec.gateway is not None and spec.gateway.idle_seconds:
        found.append("autoscaling and gateway.idleSeconds both decide when there are no groups: remove one of them")
    if spec.route is not None and spec.route.endpoint_picker and spec.gateway is not None and spec.gateway.idle_seconds:
        found.append("route.endpointPicker sends requests past the gateways, so gateway.idleSeconds cannot count them")
    if scaling is not None and bool(scaling.metrics) == bool(scaling.triggers):
        found.append("autoscaling takes either metrics or triggers: give one of them")
    return found


def _template(template: dict[str, Any], where: str, own: str = CONTAINER) -> list[str]:
    part = "engine" if own == CONTAINER else "gateway"
    unknown = sorted(set(template) - {"metadata", "spec"})
    if unknown:
        return [f"{where} is a pod template, with metadata and spec; {', '.join(unknown)} does not belong there"]
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    if not isinstance(metadata, dict) or not isinstance(spec, dict):
        return [f"{where}.metadata and {where}.spec are objects"]
    found = []
    for field in ("containers", "initContainers", "volumes"):
        for item in spec.get(field) or []:
            if not isinstance(item, dict) or not item.get("name"):
                found.append(f"{where}.spec.{field}: every item needs a name, because items are merged by name")
    if found:
        return found
    for container in spec.get("containers") or []:
        if container["name"] != own:
            if "image" not in container:
                found.append(f"{where}: the container {container['name']} has no image; the serving one is {own}")
            continue
        if container.get("$patch") == "delete":
            found.append(f"{where} deletes the container {own}, which serves: leave it in")
        for variable in container.get("env") or []:
            if isinstance(variable, dict) and is_reserved(str(variable.get("name"))):
                found.append(f"{where} sets {variable['name']}, which the operator derives from the group: remove it")
        for field in ("args", "command"):
            if field in container:
                found.append(f"{where} sets {field} of {own}: use {part}.extraArgs")
    if spec.get("hostNetwork"):
        found.append(f"{where}: hostNetwork lets pods of one node collide on their ports; remove it")
    return found


def _service(template: dict[str, Any]) -> list[str]:
    where = "spec.server.serviceTemplate"
    allowed = {"": {"metadata", "spec"}, ".metadata": {"labels", "annotations"}}
    for path, names in allowed.items():
        part = template.get(path[1:]) or {} if path else template
        unknown = sorted(set(part) - names) if isinstance(part, dict) else [str(part)]
        if unknown:
            return [f"{where}{path} takes {' and '.join(sorted(names))}; {', '.join(unknown)} does not belong there"]
    fields = template.get("spec") or {}
    if not isinstance(fields, dict):
        return [f"{where}.spec is an object"]
    own = {"type": "server.serviceType", "ports": "server.port and server.servicePort", "selector": "the operator"}
    return [f"{where}.spec sets {name}, which {own[name]} decides: remove it" for name in own if name in fields]


def _arguments(extra: tuple[str, ...], part: str) -> list[str]:
    """Flags that the operator sets itself, also under their names in vLLM and SGLang."""
    taken = sorted({argument.partition("=")[0] for argument in extra if is_reserved_flag(argument)})
    return [f"{part}.extraArgs has {flag}, which other fields of the spec decide: remove it" for flag in taken]


def child_gateway(gateway: Gateway) -> list[str]:
    """The problems of a gateway with a parent, which serves others too; none without a parent."""
    if gateway.parent is None:
        return []
    from gllm.apps.cli.also import FLAGS_OF_A_MODEL

    found = []
    if gateway.template:
        found.append(f"gateway.template is without effect: set it in LLMDeployment {gateway.parent}, gateway.parent")
    names = {argument.partition("=")[0] for argument in gateway.extra_args if argument.startswith("-")}
    foreign = sorted(name for name in names if canonical(name) not in FLAGS_OF_A_MODEL)
    return found + [
        f"gateway.extraArgs has {name}, which is not of one model: set it in LLMDeployment {gateway.parent}"
        for name in foreign
    ]


def _parallelism_of_model(spec: LLMDeploymentSpec, model: ModelConfig) -> list[str]:
    from gllm.parallel.layout import check_parallelism

    parallelism = spec.parallelism
    try:
        check_parallelism(model, pp=parallelism.pipeline, tp=parallelism.tensor, ep=parallelism.expert)
    except ValueError as error:
        text = str(error)
        for flag, field in (("--pp", "pipeline"), ("--tp", "tensor"), ("--ep", "expert")):
            text = text.replace(flag, f"parallelism.{field}")
        return [text]
    return []
