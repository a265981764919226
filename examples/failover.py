"""Fail over by hand with AdvancedRouter: block what failed, let it rest, come back to it by itself.

Two real servers on loopback; the primary starts to fail half-way. Run it as it is:

    python examples/failover.py
"""

from __future__ import annotations

import httpx

from fast_router import AdvancedRouter
from fast_router.testing import Fleet, Spec

MESSAGE = {"model": "test-model", "messages": [{"role": "user", "content": "Hello"}]}


def ask(router: AdvancedRouter, client: httpx.Client) -> str:
    """One request: each deployment is tried once at most; one that fails rests for two seconds."""
    tried: list[str] = []
    while True:
        try:
            # Nobody left to try: the lease raises NoDeploymentError, which says when the first is back.
            with router.lease("gpt-4", exclude=tried) as lease:
                client.post(f"{lease.entry['endpoint']}/chat/completions", json=MESSAGE).raise_for_status()
                return lease.entry["name"]
        except httpx.HTTPError:
            router.rest(lease.id, 2.0)
            tried.append(lease.id)


def main() -> None:
    with Fleet([Spec(name="primary"), Spec(name="backup")]) as fleet, httpx.Client(timeout=10) as client:
        model_list = [
            {"model_name": "gpt-4", "name": up.name, "endpoint": up.api_base, "metadata": {"priority": rank}}
            for rank, up in enumerate(fleet.values(), 1)
        ]

        # The stateless way: name what must not be used.
        stateless = AdvancedRouter()
        print("all fine:        ", stateless.get_available_deployment(model_list, "gpt-4")["name"])
        print("primary blocked: ", stateless.get_available_deployment(model_list, "gpt-4", ["primary"])["name"])
        print("model blocked:   ", stateless.get_available_deployment(model_list, "gpt-4", ["gpt-4"]))

        # The stateful way: leases, rests, and real answers.
        router = AdvancedRouter(model_list=model_list)
        print("answered by:     ", [ask(router, client) for _ in range(3)])
        fleet["primary"].order(error_rate=1.0)
        print("primary fails:   ", [ask(router, client) for _ in range(3)])
        fleet["primary"].order(error_rate=0.0)
        router.wake("primary")  # or wait for its two seconds to pass
        print("primary is back: ", [ask(router, client) for _ in range(3)])


if __name__ == "__main__":
    main()
