"""spec.gateway: gateways in pods of their own, in front of all groups."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, field

from gllm_operator.api.reserved import no_reserved_flags
from gllm_operator.api.types import ApiObject, Name, Port, RawObject, Rule


class Gateway(ApiObject, frozen=True, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (no_reserved_flags("gateway"),)

    parent: Name | None = None
    """The LLMDeployment in this namespace whose gateways serve this model too, under its name in requests. This one
    then has no gateways of its own: replicas and template are without effect. Both need one version of gLLM and the
    same API key."""
    replicas: Annotated[int, Meta(ge=1, le=256)] = 2
    """The number of gateway pods."""
    engine_port: Port = 29600
    """The port of the masters on which their engines serve the gateways."""
    wait_seconds: Annotated[int, Meta(ge=0, le=86400)] = 120
    """Seconds that requests wait while no group serves, before they fail."""
    idle_seconds: Annotated[int, Meta(ge=0, le=604800)] = 0
    """Seconds without requests after which all groups end. The next request waits at its gateway, for waitSeconds
    at most, and starts one group. The others of spec.replicas follow if requests go on when it serves. 0: groups
    stay."""
    extra_args: Annotated[tuple[Annotated[str, Meta(max_length=4096)], ...], Meta(max_length=64)] = ()
    """Further flags of `gllm gateway`, such as --chat-template. With a parent, only those of `--also`."""
    template: RawObject = field(default_factory=dict)
    """A PodTemplateSpec that is merged into the gateway pods. The container is called gateway."""
