"""A process of a fleet, for tests that kill, stop or skew one: prints `ready`, then holds its leases until stdin ends.

python -m tests.cluster.child URL [--hold N] [--use N] [--rest ID:SECONDS] [--skew SECONDS] [--fork] [--interop]
                              [--protocol N]
"""

from __future__ import annotations

import argparse
import os
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("--hold", type=int, default=0)
parser.add_argument("--use", type=int, default=0)
parser.add_argument("--rest", default="")
parser.add_argument("--skew", type=float, default=0.0)
parser.add_argument("--fork", action="store_true")
parser.add_argument("--interop", action="store_true", help="use LiteLLM's keys as well")
parser.add_argument("--protocol", type=int, default=0, help="be another version")
arguments = parser.parse_args()

if arguments.skew:
    right = time.time
    time.time = lambda: right() + arguments.skew

import fast_router.cluster  # noqa: E402
from fast_router.cluster.shared_state import exchange, message  # noqa: E402
from fast_router.router import AdvancedRouter  # noqa: E402
from tests.cluster.shared import entries  # noqa: E402
from tests.support.waiting import until_sync  # noqa: E402

if arguments.protocol:
    message.PROTOCOL = exchange.PROTOCOL = arguments.protocol

router = AdvancedRouter("least_busy", model_list=entries(rpm=1000), wall=time.time)
state = fast_router.cluster.attach(router, url=arguments.url, settings={"interop": True} if arguments.interop else None)
assert until_sync(lambda: state.connected)
parent = state.instance if hasattr(state, "instance") else state.exchange.instance

if arguments.fork:
    # As gunicorn with --preload: the router was made before the fork, the child serves.
    pid = os.fork()
    if pid:
        print("parent", parent, flush=True)
        sys.stdin.read()
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        sys.exit(0)
    assert until_sync(lambda: state.connected)
    assert state.exchange.instance != parent

leases = [router.acquire("m", exclude={"d1"}) for _ in range(arguments.hold)]
for _ in range(arguments.use):
    router.acquire("m", exclude={"d0"}).release(total_tokens=10)
if arguments.rest:
    name, _, seconds = arguments.rest.partition(":")
    router.rest(name, float(seconds))
print("ready", state.exchange.instance, flush=True)
if arguments.fork:
    time.sleep(3600)
sys.stdin.read()
