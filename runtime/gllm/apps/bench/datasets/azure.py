"""`--dataset-name azure`: lengths and arrivals of the public traces of Azure's LLM inference service (a CSV file)."""

from __future__ import annotations

import csv
from datetime import datetime
from itertools import islice
from pathlib import Path

from gllm.apps.bench.datasets.item import DEFAULT_COUNT, Item, Order
from gllm.apps.bench.prompt_writer import clip

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read(path: Path, order: Order) -> list[Item]:
    """Return the first rows, in their order. Raises ValueError, which names the file and the row."""
    items: list[Item] = []
    started: datetime | None = None
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = set(COLUMNS) - set(rows.fieldnames or ())
            if missing:
                raise ValueError(f"{path} has no column {min(missing)}; it needs {', '.join(COLUMNS)}")
            for number, row in enumerate(islice(rows, order.count or DEFAULT_COUNT), start=2):
                try:
                    moment = datetime.fromisoformat(row["TIMESTAMP"].strip())
                    prompt_len, output_len = int(row["ContextTokens"]), int(row["GeneratedTokens"])
                except (ValueError, AttributeError, TypeError) as error:
                    raise ValueError(f"{path}, row {number}: {error}") from None
                started = started or moment
                prompt_len, output_len = clip(
                    order.input_len or max(prompt_len, 1), order.output_len or max(output_len, 1), order.max_model_len
                )
                arrival = (moment - started).total_seconds()
                items.append(Item(order.write(prompt_len), prompt_len, output_len, arrival))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if not items:
        raise ValueError(f"{path} has no rows")
    if order.count is not None and len(items) < order.count:
        raise ValueError(f"{path} has only {len(items)} rows: set --num-prompts to {len(items)} or less")
    return items
