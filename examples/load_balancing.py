"""Balance calls over plain HTTP servers with AdvancedRouter alone: no LiteLLM Router, no proxy.

Three real servers on loopback, one of them three times as large. Run it as it is:

    python examples/load_balancing.py
"""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx

from fast_router import AdvancedRouter
from fast_router.testing import Behaviour, Fleet, Spec


async def main() -> None:
    quick = Behaviour(latency=0.02)
    with Fleet([Spec(name=name, behaviour=quick) for name in ("large", "small-1", "small-2")]) as fleet:
        model_list = [
            {
                "model_name": "gpt-4",
                "name": up.name,
                "endpoint": up.api_base,
                "capacity": 300 if up.name == "large" else 100,
                "metadata": {"priority": 1, "region": "eu"},
            }
            for up in fleet.values()
        ]

        # As a function of your own list: weighted, nothing to set up.
        router = AdvancedRouter("simple_shuffle")
        counts = Counter(router.get_available_deployment(model_list, "gpt-4")["name"] for _ in range(5000))
        print("simple_shuffle, 5,000 picks:", dict(counts.most_common()))

        # With leases: the load that counts is what is in flight now, per capacity.
        router = AdvancedRouter("least_busy", model_list=model_list)
        served: Counter[str] = Counter()
        async with httpx.AsyncClient(timeout=10) as client:

            async def call() -> None:
                async with router.lease("gpt-4") as lease:
                    answer = await client.post(
                        f"{lease.entry['endpoint']}/chat/completions",
                        json={"model": "test-model", "messages": [{"role": "user", "content": "Hello"}]},
                    )
                    answer.raise_for_status()
                    served[lease.entry["name"]] += 1

            await asyncio.gather(*(call() for _ in range(100)))
        print("least_busy, 100 concurrent calls:", dict(served.most_common()))
        for row in router.stats()["models"]["gpt-4"]["deployments"]:
            print(
                f"  {row['id']:8} in flight {row['in_flight']}, answered {row['successes']}, failed {row['failures']}"
            )


if __name__ == "__main__":
    asyncio.run(main())
