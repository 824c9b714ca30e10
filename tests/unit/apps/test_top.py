"""`gllm top`: figures of two samples of /metrics, and the tables."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator

import pytest

from gllm.apps.top.figures import ServerFigures, figures_of
from gllm.apps.top.samples import Between, Sample, read_sample
from gllm.apps.top.tables import bar, plain, seconds
from gllm.apps.top.watch import Watch

OF_ALL = 'model_name="m",engine="0"'


def metrics(tokens: int, ended: int, *, ttft: tuple[int, int, int] = (0, 0, 0), met: int | None = None) -> str:
    """ttft: cumulative counts up to 0.1 s, 0.5 s and infinity."""
    targets = "" if met is None else f'gllm:request_targets_met_total{{{OF_ALL},target="all"}} {met}\n'
    return f"""# TYPE gllm:num_requests_running gauge
gllm:num_requests_running{{{OF_ALL}}} 3
gllm:kv_cache_usage_perc{{{OF_ALL}}} 0.25
gllm:engine_up{{{OF_ALL}}} 1
# TYPE gllm:generation_tokens counter
gllm:generation_tokens_total{{{OF_ALL}}} {tokens}
# TYPE gllm:request_success counter
gllm:request_success_total{{{OF_ALL},finished_reason="stop"}} {ended}
gllm:request_success_total{{{OF_ALL},finished_reason="abort"}} 7
# TYPE gllm:prefix_cache_queries counter
gllm:prefix_cache_queries_total{{{OF_ALL}}} {10 * tokens}
gllm:prefix_cache_hits_total{{{OF_ALL}}} {4 * tokens}
# TYPE gllm:time_to_first_token_seconds histogram
gllm:time_to_first_token_seconds_bucket{{{OF_ALL},le="0.1"}} {ttft[0]}
gllm:time_to_first_token_seconds_bucket{{{OF_ALL},le="0.5"}} {ttft[1]}
gllm:time_to_first_token_seconds_bucket{{{OF_ALL},le="+Inf"}} {ttft[2]}
gllm:stage_busy_perc{{{OF_ALL},stage="1"}} 0.5
gllm:stage_busy_perc{{{OF_ALL},stage="0"}} 0.9
gllm:stage_bubble_perc{{{OF_ALL},stage="0"}} 0.1
{targets}"""


def between(before: str, after: str, seconds: float = 4.0) -> Between:
    return Between(read_sample(before, 10.0), read_sample(after, 10.0 + seconds))


def test_rates_shares_and_quantiles() -> None:
    found = figures_of(
        "http://h:1", between(metrics(100, 5, met=5), metrics(300, 9, ttft=(6, 8, 10), met=8), seconds=4)
    )
    assert (found.running, found.kv_usage, found.engine_up, found.models) == (3, 0.25, True, ["m"])
    assert found.output_tokens_per_second == 50.0
    assert found.requests_per_second == 1.0, "aborted requests do not count"
    assert found.prefix_hits == 0.4
    assert found.goodput == 0.75
    assert found.ttft_p50 == pytest.approx(0.1 * 5 / 6), "the fifth of six in the first bucket"
    assert found.ttft_p95 == 0.5, "above the last edge"
    assert found.tpot_p50 is None
    assert [(stage.stage, stage.busy, stage.bubble) for stage in found.stages] == [(0, 0.9, 0.1), (1, 0.5, 0.0)]


def test_a_server_that_began_again() -> None:
    found = figures_of("u", between(metrics(1000, 50, ttft=(9, 9, 9)), metrics(40, 2, ttft=(0, 2, 2))))
    assert found.output_tokens_per_second == 10.0
    assert found.ttft_p50 == pytest.approx(0.3)


def test_the_first_sample_has_no_rates() -> None:
    sample = read_sample(metrics(1000, 50, met=1), 1.0)
    found = figures_of("u", Between(sample, sample))
    assert found.running == 3
    assert found.output_tokens_per_second is found.requests_per_second is found.goodput is found.ttft_p50 is None


def test_tables() -> None:
    good = figures_of("http://h:1", between(metrics(0, 0), metrics(400, 4, ttft=(4, 4, 4))))
    few = plain([good, ServerFigures(url="http://h:2", problem="no answer")])
    assert "| output tok/s | 100" in few, "few servers are columns"
    assert "no answer" in few
    assert "| h:1    | 0     | 90%  | ██████████████████░░ | 10%" in few
    many = plain([good] * 4)
    assert many.count("| h:1    | m     | serves |") == 4, "many servers are rows"
    assert (seconds(None), seconds(0.0123), seconds(2.5), bar(0.0)) == ("-", "12.3 ms", "2.5 s", "░" * 20)


@pytest.fixture
def other_server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"vllm:num_requests_running 3\n"
            self.send_response(200 if self.headers.get("Authorization") == "Bearer k" else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("key", "problem"), [("", "add --api-key"), ("k", "no series of gLLM")])
def test_a_server_without_figures_says_why(other_server: str, key: str, problem: str) -> None:
    async def ask() -> list[ServerFigures]:
        async with Watch([other_server], key) as watch:
            return await watch.figures()

    assert problem in asyncio.run(ask())[0].problem


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="URL must look like http"):
        Watch(["http://h:port"])


def test_labels_add_up() -> None:
    sample = Sample(0.0, {"x": [({"model_name": "a"}, 1.0), ({"model_name": "b"}, 2.0)]})
    assert (sample.total("x"), sample.total("x", model_name="b"), sample.total("y")) == (3.0, 2.0, None)
    assert sample.label("model_name") == ["a", "b"]
