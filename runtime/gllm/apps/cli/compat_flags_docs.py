"""The tables of docs/coming-from-vllm.md. `make generate` runs `python -m gllm.apps.cli.compat_flags_docs FILE`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from gllm.apps.compat_flags import ANY, COMPAT_FLAGS, CompatFlag

_BEGIN = "<!-- tables: python -m gllm.apps.cli.compat_flags_docs docs/coming-from-vllm.md -->\n"
_END = "<!-- end of the tables -->\n"


def with_tables(page: str) -> str:
    """Return the page with current tables. Raises ValueError if it has no marks for them."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"the page has no {_BEGIN.strip()} ... {_END.strip()}")
    return before + begin + _tables() + end + after


def _tables() -> str:
    renamed = [row for row in COMPAT_FLAGS if row.ours]
    ignored = [row for row in COMPAT_FLAGS if row.ignored is not None]
    refused = [row for row in COMPAT_FLAGS if not row.ours and row.ignored is None]
    return f"""
## Accepted

| vLLM | SGLang | here | |
|---|---|---|---|
{_lines(f"{_names(row.vllm)} | {_names(row.sglang)} | `{row.ours}` | {_renamed_note(row)}" for row in renamed)}

## Accepted, and nothing changes

With another value these are refused.

| vLLM | SGLang | values | why |
|---|---|---|---|
{_lines(f"{_names(row.vllm)} | {_names(row.sglang)} | {_values(row)} | {row.note}" for row in ignored)}

## Refused

| vLLM | SGLang | why, and what to do instead |
|---|---|---|
{_lines(f"{_names(row.vllm)} | {_names(row.sglang)} | {row.note}" for row in refused)}

"""


def _lines(rows: Iterable[str]) -> str:
    return "\n".join(f"| {row} |" for row in rows)


def _names(names: str) -> str:
    return " ".join(f"`{name}`" for name in names.split())


def _renamed_note(row: CompatFlag) -> str:
    values = ", ".join(f"{theirs} is {ours}" for theirs, ours in row.values.items())
    return "; ".join(part for part in (row.note, values) if part)


def _values(row: CompatFlag) -> str:
    return "any" if row.ignored == ANY else ", ".join(row.ignored or ())


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text()))
