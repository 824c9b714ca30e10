"""What every part of the manifest is made of.

A field's docstring (the string below it) is its description in the CRD, its type and `msgspec.Meta` are its schema,
its default is the API server's, and `RULES` of a class become CEL rules that the API server checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule of the CRD. The message says the fix."""

    rule: str
    message: str


class ApiObject(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """An object in the manifest."""

    RULES: ClassVar[tuple[Rule, ...]] = ()


Free = dict[str, Any]
"""An object in Kubernetes' own terms: kept as it is by the API server, checked by the operator when it is used."""

Name = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""Name of a Kubernetes object."""
ShortText = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=1024)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[int, Meta(ge=0, le=86400)]


class Variable(ApiObject, frozen=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the environment variable."""
    value: Text = ""
    """Its value."""


class KeyRef(ApiObject, frozen=True, kw_only=True):
    name: Name
    """The Secret's name."""
    key: Annotated[str, Meta(min_length=1, max_length=253)]
    """The key in the Secret."""
