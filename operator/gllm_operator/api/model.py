"""spec.model: what is served, and where its files come from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

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
    """Where the model's files are: file:///PATH (in the container: mount a volume with spec.template),
    pvc://CLAIM/PATH, hf://ORGANIZATION/NAME (downloaded when a pod starts) or oci://IMAGE#PATH (an image volume)."""
    revision: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[\w./-]+$")] | None = None
    """Branch, tag or commit of an hf:// source; without it main."""
    token_secret_ref: KeyRef | None = None
    """Key of a Secret with the access token for an hf:// source."""
    cache_claim: Name | None = None
    """PersistentVolumeClaim that keeps what is downloaded; without it every new pod downloads anew."""
    served_names: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=128)], ...], Meta(max_length=1)] = ()
    """The model's name in requests; without it the last part of its path. (The runtime serves under one name.)"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights, activations and KV cache; auto is the checkpoint's own, where the device has it."""
    max_model_len: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    """Longest prompt + output in tokens; without it what the model and the KV cache allow."""
