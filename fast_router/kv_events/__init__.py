"""KV-cache events of vLLM over ZMQ (`fast-router[kv-events]`): what servers themselves say that they have cached.

One idea per file: the wire format (`messages`), what a server's cache holds (`server_cache`), one server's stream with
its gaps and restarts (`source`), and the thread that follows all of them (`subscriber`).
"""
