"""Does memory grow? Many requests through one Router, the memory that Python holds after every part of them.

The second figure of a part is what grew since the part before. LiteLLM fills caches of its own in the first parts;
what matters is that nothing grows after that, and that the plugin adds nothing to it. Not part of ``make bench``'s
short runs: ``python -m benchmarks.memory --requests 200000``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
import tracemalloc
from typing import Any

from benchmarks.common import model_list
from benchmarks.report import Report

MESSAGES = [{"role": "user", "content": "Still there?"}]


def _held() -> float:
    """MiB as tracemalloc counts them; without it thousands of memory blocks, which costs nothing to know."""
    if tracemalloc.is_tracing():
        return tracemalloc.get_traced_memory()[0] / 2**20
    return sys.getallocatedblocks() / 1000


async def _part(router: Any, requests: int) -> float:
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER  # noqa: PLC0415

    for _ in range(requests // 100):
        await asyncio.gather(
            *(router.acompletion(model="group-0", messages=MESSAGES, mock_response="yes") for _ in range(100))
        )
        await GLOBAL_LOGGING_WORKER.flush()
    gc.collect()
    return _held()


def main() -> None:
    """Run the parts with the plugin off, then with it on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000, help="requests of a side, in four parts")
    parser.add_argument("--strategy", default="least-busy")
    parser.add_argument("--side", choices=("off", "on"), help="only this side, for two processes next to each other")
    parser.add_argument(
        "--blocks", action="store_true", help="count memory blocks instead of tracing: three times faster"
    )
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    import litellm  # noqa: PLC0415 - after the environment is set

    import fast_router  # noqa: PLC0415

    unit = "thousands of blocks" if options.blocks else "MiB"
    report = Report("memory", f"Memory held by Python, {unit}", ["plugin", "requests so far", "held", "grown since"])
    if not options.blocks:
        tracemalloc.start()
    for side in (options.side,) if options.side else ("off", "on"):
        (fast_router.enable if side == "on" else fast_router.disable)()
        router = litellm.Router(model_list=model_list(1, 20), routing_strategy=options.strategy, num_retries=0)

        async def run(router: Any = router, side: str = side) -> None:
            held = await _part(router, 100)
            for part in range(1, 5):
                now = await _part(router, options.requests // 4)
                report.add(side, part * (options.requests // 4), now, round(now - held, 3))
                print(f"   {side} {part * (options.requests // 4)}: {now:.2f} {unit}, {now - held:+.3f}", flush=True)
                held = now

        asyncio.run(run())
        router.discard()
    fast_router.disable()
    report.finish()


if __name__ == "__main__":
    main()
