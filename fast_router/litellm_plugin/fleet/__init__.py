"""Routers of several processes: shared state attached, LiteLLM's Redis commands behind the request."""
