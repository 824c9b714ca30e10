"""`gllm render`: every object that the operator would make of a manifest."""

from __future__ import annotations

from typing import Annotated

import typer

from gllm.apps.cli.parsing import Command

FileOption = Annotated[str, typer.Option("--filename", "-f", metavar="FILE", help="A manifest with LLMDeployments.")]
NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", help="Namespace where the manifest names none.")]
ImageOption = Annotated[str, typer.Option("--default-image", help="Image where spec.image is not set.")]


def render(filename: FileOption, *, namespace: NamespaceOption = "default", default_image: ImageOption = "") -> None:
    """Print what the operator would apply on an empty cluster, as YAML.

    The Secret of the keys comes without them: they are made when it is applied.
    """
    try:
        from gllm_operator.local.manifest import DEFAULT_IMAGE, objects_of, read_deployments, to_yaml, without_owner
    except ImportError as error:
        raise typer.BadParameter(f"the operator is not installed ({error}): pip install 'gllm[operator]'") from None
    try:
        objects = [
            without_owner(one)
            for deployment in read_deployments(filename, namespace)
            for one in objects_of(deployment, keys="", default_image=default_image or DEFAULT_IMAGE)
        ]
    except ValueError as error:
        typer.echo(f"gllm: error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(to_yaml(objects), nl=False)


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("render", cls=Command)(render)
