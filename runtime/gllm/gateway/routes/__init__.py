"""The ASGI application: which path does what."""
