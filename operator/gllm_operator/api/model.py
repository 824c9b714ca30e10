"""spec.model: the model and the source of its files."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from gllm.config import DtypeChoice
from gllm_operator.api.types import ApiObject, KeyRef, Name, Rule


class Model(ApiObject, frozen=True, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.revision) || self.source.startsWith('hf://')",
            "model.revision belongs to hf:// sources only: remove it, or name the version in the source",
        ),
        Rule(
            "!has(self.tokenSecretRef) || self.source.startsWith('hf://')",
            "model.tokenSecretRef belongs to hf:// sources only: remove it",
        ),
        Rule(
            "!has(self.cacheClaim) || self.source.startsWith('hf://')",
            "model.cacheClaim keeps downloads of hf:// sources only: remove it, or use a pvc:// source",
        ),
    )

    source: Annotated[
        str,
        Meta(
            min_length=8,
            max_length=512,
            pattern=r"^(file:///[^#?\s]+|pvc://[a-z0-9][-a-z0-9.]*/?[^#?\s]*|hf://[\w.-]+/[\w.-]+|oci://[^#?\s]+(#[^?\s]*)?)$",
        ),
    ]
    """Where the files of the model are. file:///PATH is a path in the container: mount a volume there with
    spec.template. pvc://CLAIM/PATH is a PersistentVolumeClaim. hf://ORGANIZATION/NAME is downloaded when a pod
    starts. oci://IMAGE#PATH is an image volume."""
    revision: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[\w./-]+$")] | None = None
    """The branch, tag or commit of an hf:// source. Defaults to main."""
    token_secret_ref: KeyRef | None = None
    """The key of a Secret with the access token for an hf:// source."""
    cache_claim: Name | None = None
    """The PersistentVolumeClaim that keeps downloads. Without one, every new pod downloads the model."""
    served_names: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=128)], ...], Meta(max_length=1)] = ()
    """The name of the model in requests. At most one; defaults to the last part of the model's path."""
    dtype: DtypeChoice = "auto"
    """The data type of weights, activations and KV cache. auto is the checkpoint's own, if the device supports it."""
    max_model_len: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    """The maximum length of prompt and output together, in tokens. Defaults to the most that the model and the KV cache
    allow."""
