"""The flags that choose what is sent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gllm.apps.bench.datasets.load import DATASETS, Dataset, check, dataset_name
from gllm.apps.bench.workloads import WORKLOADS

WorkloadName = Literal["sharegpt", "azure", "decode", "prefill", "cpu"]

_WORKLOAD_HELP = "Synthetic requests: " + "; ".join(
    f"{workload.name}: {workload.about} (mean {workload.prompt.mean:g} in, {workload.output.mean:g} out)"
    for workload in WORKLOADS.values()
)


def _option(*names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Requests", **settings)


@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """A synthetic workload or a data set."""

    workload: Annotated[
        WorkloadName | None, _option("--workload", help=f"{_WORKLOAD_HELP}.", show_default="sharegpt")
    ] = None
    dataset_name: Annotated[
        str, _option("--dataset-name", help=f"A data set instead: {', '.join(DATASETS)}.", show_default=False)
    ] = ""
    dataset_path: Annotated[
        Path | None,
        _option("--dataset-path", help="Its file: ShareGPT's JSON, Azure's CSV, or JSON lines of prompts or messages."),
    ] = None
    input_len: Annotated[
        int | None,
        _option(
            *("--input-len", "--random-input-len"),
            min=1,
            help="Every prompt has this many tokens.",
            show_default="the workload's; random: 1024; multi-turn: 64 a turn",
        ),
    ] = None
    output_len: Annotated[
        int | None,
        _option(
            *("--output-len", "--random-output-len", "--sharegpt-output-len", "--custom-output-len"),
            "--prefix-repetition-output-len",
            min=1,
            help="Every answer has this many tokens.",
            show_default="those of the workload or data set",
        ),
    ] = None
    random_range_ratio: Annotated[
        float,
        _option(
            "--random-range-ratio", min=0.0, max=0.999, help="Lengths are drawn from len x (1 - R) to len x (1 + R)."
        ),
    ] = 0.0
    random_prefix_len: Annotated[
        int, _option("--random-prefix-len", min=0, help="Tokens that all prompts begin with, before their own.")
    ] = 0
    prefix_repetition_prefix_len: Annotated[
        int, _option("--prefix-repetition-prefix-len", min=1, help="Tokens of a shared prefix.")
    ] = 256
    prefix_repetition_suffix_len: Annotated[
        int, _option("--prefix-repetition-suffix-len", min=1, help="Tokens of a prompt after it.")
    ] = 256
    prefix_repetition_num_prefixes: Annotated[
        int, _option("--prefix-repetition-num-prefixes", min=1, help="Number of prefixes.")
    ] = 10
    multi_turn_turns: Annotated[int, _option("--multi-turn-turns", min=1, help="Requests of a conversation.")] = 4
    multi_turn_system_len: Annotated[
        int, _option("--multi-turn-system-len", min=0, help="Tokens of a system prompt.")
    ] = 256
    multi_turn_system_prompts: Annotated[
        int, _option("--multi-turn-system-prompts", min=1, help="Number of system prompts that conversations share.")
    ] = 1

    def with_workload(self, name: WorkloadName) -> DataFlags:
        return replace(self, workload=name)

    def dataset(self) -> Dataset:
        """Return what the flags choose. Raises ValueError, which names the flag."""
        if self.workload and self.dataset_name:
            raise ValueError(
                f"--workload {self.workload} draws synthetic requests and --dataset-name {self.dataset_name} replaces "
                "them: leave one out"
            )
        made = Dataset(
            workload=self.workload or "sharegpt",
            name=dataset_name(self.dataset_name) if self.dataset_name else "",
            path=self.dataset_path,
            input_len=self.input_len,
            output_len=self.output_len,
            range_ratio=self.random_range_ratio,
            random_prefix_len=self.random_prefix_len,
            prefix_len=self.prefix_repetition_prefix_len,
            suffix_len=self.prefix_repetition_suffix_len,
            num_prefixes=self.prefix_repetition_num_prefixes,
            turns=self.multi_turn_turns,
            system_len=self.multi_turn_system_len,
            system_prompts=self.multi_turn_system_prompts,
        )
        check(made)
        return made
