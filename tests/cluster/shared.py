"""What the tests of shared state have in common."""

from __future__ import annotations

from contextlib import contextmanager

import fast_router.cluster
from fast_router.router import AdvancedRouter
from tests.support.waiting import until_sync


def entries(count=2, model="m", **params):
    return [
        {
            "model_name": model,
            "litellm_params": {"model": f"openai/{model}-{n}", "api_base": f"http://127.0.0.1/{n}", **params},
            "model_info": {"id": f"d{n}"},
        }
        for n in range(count)
    ]


@contextmanager
def member(url, count=2, strategy="least_busy", model_list=None, **settings):
    """One instance of a fleet: a router and its state, connected."""
    router = AdvancedRouter(strategy, model_list=model_list if model_list is not None else entries(count))
    state = fast_router.cluster.attach(router, url=url, settings=settings)
    try:
        assert until_sync(lambda: state.connected), state.status()
        yield router, state
    finally:
        state.close()


def outside(router):
    return {d.id: d.outside for d in router.deployments.values()}
