"""The HTTP side of a process group: it turns requests into work for the engine, and tokens into answers.

A module imports only from its own layer and from lower ones; tests/unit/gateway/test_gateway_layers.py checks it:

| layer | |
|---|---|
| `__main__`, `http_process` | the process: start, the supervisor's messages, drain |
| `routes/` | the ASGI application: which path does what |
| `http/` | HTTP itself: reading bodies, sending answers, disconnects, limits, uvicorn |
| `api/` | the four APIs: from their bodies to a request, from deltas to their answers |
| `request/` | the life cycle of one request: admit, generate, deltas, close |
| `shared/` | what all requests share: the served model, the engine, admission, metrics |
| `protocol/` | the APIs as data: bodies and their bounds, errors, chunks, usage |
"""
