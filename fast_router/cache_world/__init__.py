"""Servers with a prefix cache in virtual time: an hour of traffic in seconds, the same arrivals for every strategy.

A server computes prompts one after the other (prefill: a fixed time and so many tokens per second, less what its cache
holds) and generates answers beside that. Its cache is an LRU of blocks, as in vLLM: a prompt's last blocks leave first,
so what is left of it is always a beginning. A request is a row of block ids, equal ids being equal beginnings; a router
sees it as text, as a program would send it, and knows nothing of the ids. The `Oracle` beside it knows every cache and
every queue as they are.
"""

from fast_router.cache_world.contenders import Contender, Oracle, Proxies, Router
from fast_router.cache_world.play import Change, Outcome, run
from fast_router.cache_world.requests import Request, Workload
from fast_router.cache_world.servers import Server, ServerShape, shape
from fast_router.cache_world.traces import read_trace
from fast_router.cache_world.workloads import WORKLOADS, agents, chat, conversations, mixed, tenants, traffic

__all__ = [
    "WORKLOADS", "Change", "Contender", "Oracle", "Outcome", "Proxies", "Request", "Router", "Server", "ServerShape",
    "Workload", "agents", "chat", "conversations", "mixed", "read_trace", "run", "shape", "tenants", "traffic",
]  # fmt: skip
