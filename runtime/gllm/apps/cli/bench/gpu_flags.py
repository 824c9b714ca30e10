"""The flags for the share of the roofline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
import typer

from gllm.apps.bench.roofline import GPUS, Gpus, parse_gpu
from gllm.apps.bench.steady import SteadyLoad
from gllm.config import ModelSource

_GPUS = ", ".join(GPUS)


@dataclass(frozen=True, kw_only=True)
class GpuFlags:
    """What serves the model."""

    gpu: Annotated[
        str,
        typer.Option(
            "--gpu", help=f"With --steady: number and kind, such as 2xH200, for the share of the roofline ({_GPUS})."
        ),
    ] = ""
    model_config: Annotated[
        str,
        typer.Option(
            "--model-config",
            help="With --gpu: a folder with config.json, a GGUF file or ORG/NAME.",
            show_default="the served model's name",
        ),
    ] = ""

    def add_to(self, load: SteadyLoad | None, served: str = "") -> SteadyLoad | None:
        """Return the closed loop with the GPUs and the shape of the model. Raises ValueError.

        served: the model's name, for a run without --model-config.
        """
        if not self.gpu:
            if self.model_config:
                raise ValueError("--model-config is for the share of the roofline: add --gpu, such as --gpu 2xH200")
            return load
        if load is None:
            raise ValueError("--gpu is for the share of the roofline under steady load: add --steady, or leave it out")
        from gllm.hub.locate import locate
        from gllm.models.families import load_model_config

        kind, count = parse_gpu(self.gpu)
        fix = "set --model-config to a folder with config.json, a GGUF file or ORG/NAME"
        name = self.model_config or served
        if not name:
            raise ValueError(f"--gpu needs the shape of the model: {fix}")
        try:
            path, _ = locate(
                name,
                ModelSource(),
                weights=False,
                report=lambda line: typer.echo(f"gllm: {line}", err=True),
            )
            model = load_model_config(path)
        except ValueError as error:
            raise ValueError(f"--gpu needs the shape of the model: {fix} ({error})") from None
        return msgspec.structs.replace(load, gpus=Gpus(kind, count, model))
