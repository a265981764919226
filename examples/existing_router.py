"""A program that uses `litellm.Router` already: one import more, and the Router picks through fast_router.

Two real servers on loopback, one slower than the other. Run it as it is:

    python examples/existing_router.py
"""

from __future__ import annotations

import asyncio

import litellm

import fast_router  # the one line that is new; before or after litellm
from fast_router.testing import Behaviour, Fleet, Spec


async def main() -> None:
    with Fleet([Spec(name="fast"), Spec(name="slow", behaviour=Behaviour(latency=0.2))]) as fleet:
        router = litellm.Router(
            model_list=[
                {
                    "model_name": "assistant",
                    "litellm_params": {"model": "openai/test-model", "api_base": up.api_base, "api_key": "none"},
                    "model_info": {"id": up.name},
                }
                for up in fleet.values()
            ],
            # LiteLLM's own name. Ours are accepted as well: "peak_ewma", "power_of_two", "round_robin", …
            routing_strategy="least-busy",
        )

        async def client(requests: int) -> None:
            for _ in range(requests):
                await router.acompletion(model="assistant", messages=[{"role": "user", "content": "Hello"}])

        # Ten clients, one request after the other each: who answers sooner gets more.
        await asyncio.gather(*(client(12) for _ in range(10)))

        behind = fast_router.advanced_router(router)
        for deployment in behind.stats()["models"]["assistant"]["deployments"]:
            print(f"{deployment['id']}: {deployment['picks']} picks, {deployment['in_flight']} in flight")
        print(fast_router.status()["picks"])

        # And back: LiteLLM as if we had never been there.
        fast_router.disable()
        await client(1)
        print("LiteLLM picks by itself again")


if __name__ == "__main__":
    asyncio.run(main())
