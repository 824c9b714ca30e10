"""Measures the table of docs/chaos.md: `PYTHONPATH=tests python -m e2e.chaos_table`, where `make test-cluster` runs.

For each row the program restores the deployment, starts two loads at once (one on kept connections, one with a fresh
connection for each request), does what the row says, and waits until everything serves again. `--gateway` puts
`spec.gateway` in front. Results are appended to a file of JSON lines, and `--print` makes the table of one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from e2e.chaos import ROWS, Row
from e2e.cluster import Missing, some_cluster
from e2e.kube import Kube, Object
from e2e.load import Load, Report
from e2e.steps import endpoint, install, serving

STREAMS = 3
"""In each of the two loads."""
MAX_TOKENS = 60


def measure(kube: Kube, row: Row, gateway: bool) -> dict[str, Any]:
    """Returns the figures. Raises AssertionError if the cluster does not heal."""
    spec: Object = {**row.spec, "gateway": {"replicas": 2, "waitSeconds": 300}} if gateway else row.spec
    if row.namespace not in kube.kubectl("get", "namespaces", "-o", "name"):
        kube.kubectl("create", "namespace", row.namespace)
    kube = Kube(kube.cluster, row.namespace)
    if row.prepare:
        serving(kube, 0, **spec)
        row.prepare(kube)
    try:
        serving(kube, row.groups, **spec)
        url = endpoint(kube)
        with Load(url, STREAMS, MAX_TOKENS) as kept, Load(url, STREAMS, MAX_TOKENS, clients=("fresh",)) as fresh:
            for load in (kept, fresh):
                load.wait_for(STREAMS)
            began = time.monotonic()
            row.act(kube)
            healed = time.monotonic() - began
            for load in (kept, fresh) if row.serves_again else ():
                load.wait_for(STREAMS)
    finally:
        if row.restore:
            row.restore(kube)
    return {
        "what": row.what,
        "gateway": gateway,
        "kept": figures(kept.report),
        "fresh": figures(fresh.report),
        "seconds": round(healed, 1),
    }


def figures(report: Report) -> dict[str, Any]:
    return {
        "sent": report.sent,
        "lost": report.lost,
        "broken": sum(failure.began for failure in report.failures),
        "differing": report.differing,
        "pause": round(report.longest_pause, 1),
        "causes": sorted({failure.cause[:160] for failure in report.failures})[:3],
    }


def table(results: list[dict[str, Any]]) -> str:
    """The newest result of each row and mode, in Markdown: sent, lost, longest pause."""
    newest = {(one["what"], one["gateway"], kind): one[kind] for one in results for kind in ("kept", "fresh")}
    lines = [
        "| what | before | kept | fresh | gateways, kept | gateways, fresh |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        cells = [newest.get((row.what, gateway, kind)) for gateway in (False, True) for kind in ("kept", "fresh")]
        lines.append(f"| {row.what} | {row.before} | " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines)


def _cell(one: dict[str, Any] | None) -> str:
    return f"{one['sent']}, {one['lost']}, {one['pause']:.1f} s" if one else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="", help="only rows whose text matches this regular expression")
    parser.add_argument("--gateway", choices=("off", "on", "both"), default="both")
    parser.add_argument("--results", type=Path, default=Path("chaos.jsonl"))
    parser.add_argument("--print", action="store_true", help="print the table of --results, and measure nothing")
    given = parser.parse_args()
    if not given.print:
        with some_cluster() as cluster:
            run(Kube(cluster), given)
    if given.results.exists():
        print(table([json.loads(line) for line in given.results.read_text().splitlines()]))


def run(kube: Kube, given: argparse.Namespace) -> None:
    install(kube)
    for gateway in {"off": (False,), "on": (True,), "both": (False, True)}[given.gateway]:
        for row in ROWS:
            if not re.search(given.rows, row.what) or (row.machines and kube.cluster.kind != "shared"):
                continue
            try:
                result = measure(kube, row, gateway)
            except (AssertionError, RuntimeError) as error:
                print(f"{row.what}, gateway {gateway}: {error}", file=sys.stderr, flush=True)
                continue
            with given.results.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            main()
        except Missing as problem:
            sys.exit(str(problem))
