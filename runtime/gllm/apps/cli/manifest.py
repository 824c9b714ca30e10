"""`gllm render` and `gllm run`: a manifest without a cluster. Both need the operator's package."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from gllm.apps.cli.parsing import Command

FileOption = Annotated[str, typer.Option("--filename", "-f", metavar="FILE", help="A manifest with LLMDeployments.")]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="Namespace of objects for which the manifest names none.")
]
ImageOption = Annotated[str, typer.Option("--default-image", help="Image where spec.image is not set.")]
MountOption = Annotated[
    list[str],
    typer.Option("--mount", metavar="PATH=HERE", help="Where a path of the container is on this machine; repeatable."),
]


def render(filename: FileOption, *, namespace: NamespaceOption = "default", default_image: ImageOption = "") -> None:
    """Print the objects that the operator would apply on an empty cluster with all optional APIs, as YAML.

    The Secret of the keys has no keys: the operator makes them when it applies the Secret.
    """
    try:
        from gllm_operator.local.manifest import (
            ALL_APIS,
            DEFAULT_IMAGE,
            objects_of,
            read_deployments,
            to_yaml,
            without_owner,
        )
    except ImportError as error:
        refuse_without_operator(error)
    try:
        deployments, image = read_deployments(filename, namespace), default_image or DEFAULT_IMAGE
        objects = [
            without_owner(one)
            for deployment in deployments
            for one in objects_of(deployment, keys="", default_image=image, apis=ALL_APIS, namespace=deployments)
        ]
    except ValueError as error:
        typer.echo(f"gllm: error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(to_yaml(objects), nl=False)


def run(filename: FileOption, *, mount: MountOption = []) -> None:  # noqa: B006  (typer wants a list, and copies it)
    """Run the pods of a manifest as processes of this machine: one LLMDeployment, or several that share a gateway.

    Arguments and environment are those that the operator would render; nodes are addresses of the loopback. Ctrl-C
    finishes the running requests; a second Ctrl-C ends at once.
    """
    try:
        from gllm_operator.local.run import run as run_manifest
    except ImportError as error:
        refuse_without_operator(error)
    mounts = {}
    for text in mount:
        inside, equals, here = text.partition("=")
        if not (inside and equals and here):
            raise typer.BadParameter(f"{text!r} is not PATH=HERE", param_hint="--mount")
        mounts[inside] = here
    try:
        raise typer.Exit(run_manifest(filename, mounts, sys.stdout))
    except ValueError as error:
        typer.echo(f"gllm: error: {error}", err=True)
        raise typer.Exit(1) from None


def refuse_without_operator(error: ImportError) -> NoReturn:
    """Also for `gllm status`."""
    raise typer.BadParameter(f"the operator is not installed ({error}): pip install 'gllm[operator]'") from None


def register(parent: typer.Typer) -> None:
    """Add the commands to `gllm`."""
    parent.command("render", cls=Command)(render)
    parent.command("run", cls=Command)(run)
