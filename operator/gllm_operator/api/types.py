"""The base class and the common field types of the LLMDeployment.

The string below a field becomes its description in the CRD. Its type and `msgspec.Meta` become its schema, and its
default becomes the API server's default. The `RULES` of a class become CEL rules that the API server checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule of the CRD. Its message says how to fix the manifest."""

    rule: str
    message: str
    field: str = ""
    """The path of the field that errors name, such as .metadata.name; empty: the object of the rule."""


class ApiObject(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """An object in the LLMDeployment."""

    RULES: ClassVar[tuple[Rule, ...]] = ()


RawObject = dict[str, Any]
"""An object of another Kubernetes API. The API server stores it unchecked; the operator checks it when it is used."""

Name = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""The name of a Kubernetes object."""
ShortText = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=1024)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[int, Meta(ge=0, le=86400)]


class Variable(ApiObject, frozen=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """The name of the environment variable."""
    value: Text = ""
    """The value of the environment variable."""


class KeyRef(ApiObject, frozen=True, kw_only=True):
    name: Name
    """The name of the Secret."""
    key: Annotated[str, Meta(min_length=1, max_length=253)]
    """The key within the Secret."""
