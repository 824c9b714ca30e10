"""The operator's HTTP server: /healthz, /readyz and /metrics."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from gllm_operator.controller.metrics import OperatorMetrics


async def serve_http(
    host: str, port: int, metrics: OperatorMetrics, unhealthy: Callable[[], str], unready: Callable[[], str]
) -> web.AppRunner:
    """Start the server. `unhealthy` and `unready` return the reason, or an empty text if all is well."""

    def state(problem: str) -> web.Response:
        return web.json_response({"status": problem or "ok"}, status=503 if problem else 200)

    async def healthz(_: web.Request) -> web.Response:
        return state(unhealthy())

    async def readyz(_: web.Request) -> web.Response:
        return state(unready())

    async def render(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", render)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
