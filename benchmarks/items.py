"""Each bookkeeping item by itself, LiteLLM's way and with fast_router, µs per call.

The functions are called as a request calls them, in rounds that take turns with the plugin off and on; the fastest
round of each counts. Hot loops flatter both sides: `overhead` says what it means for a request.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import model_list
from benchmarks.report import Report

_ROUNDS = 7


async def _per_call(function: Callable[[], Any], calls: int) -> float:
    answer = function()
    waits = asyncio.iscoroutine(answer)
    if waits:
        await answer
    began = time.perf_counter()
    for _ in range(calls):
        answer = function()
        if waits:
            await answer
    return (time.perf_counter() - began) / calls


def _items(router: Any) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return by name what to call, and how often in a round at 3 deployments."""
    import litellm  # noqa: PLC0415 - after the environment is set

    core = vars(router).get("_core", router)
    core_name = "_core_" if hasattr(core, "_core_get_model_list") else ""

    def get(name: str) -> Any:
        return getattr(core, core_name + name, None) or getattr(core, name)

    cache = get("cache").in_memory_cache
    cache.set_cache("a number", 5)
    entry = (getattr(core, "_core_model_list", None) or core.model_list)[0]
    module = __import__(type(core).__mro__[-2].__module__, fromlist=["x"])
    read = getattr(module, "get_cooldown_deployments", None) or module._get_cooldown_deployments
    whose = {"ctx": core._core_ctx} if core_name else {"litellm_router_instance": core}
    found = {
        "model list": (lambda: get("get_model_list")(model_name="group-0"), 300),
        "remaining usage for headers": (lambda: get("get_remaining_model_group_usage")("group-0"), 100),
        "cooldown read": (lambda: read(**whose, parent_otel_span=None), 100),
        "a cached number": (lambda: cache.get_cache("a number"), 1000),
        "print_deployment": (lambda: core.print_deployment(copy.copy(entry)), 300),
        "price-map index": (lambda: _index_after_registration(litellm), 10),
    }
    if hasattr(core, "_increment_deployment_usage"):
        arguments = {
            "deployment_id": entry["model_info"]["id"],
            "deployment_name": entry["litellm_params"]["model"],
            "model_group": "group-0",
            "total_tokens": 7,
            "rpm_increment": 1,
            "parent_otel_span": None,
        }
        found["usage of a request"] = (lambda: core._increment_deployment_usage(**arguments), 100)
    return found | _questions_of_the_proxy(router, entry["model_info"]["id"])


def _questions_of_the_proxy(router: Any, deployment_id: str) -> dict[str, tuple[Callable[[], Any], int]]:
    """What the proxy asks with every request; nothing with a LiteLLM that has other names for it."""
    try:
        from litellm.proxy import common_request_processing as requests  # noqa: PLC0415
        from litellm.proxy import proxy_server  # noqa: PLC0415
        from litellm.proxy.auth import auth_utils  # noqa: PLC0415
        from litellm.proxy.guardrails import auto_router_compression as compression  # noqa: PLC0415

        guardrails = requests.check_and_merge_model_level_guardrails
    except (ImportError, AttributeError):
        return {}
    proxy_server.llm_router = router
    group, field = "group-0", "default_api_key_rpm_limit"
    data = {"model": group}
    return {
        "get_deployment": (lambda: router.get_deployment(deployment_id), 300),
        "access groups": (lambda: router.get_model_access_groups(model_name=group), 300),
        "default limit for keys": (lambda: auth_utils._get_deployment_default_limit(group, field), 300),
        "auto router's policy": (lambda: compression.policy_for_model(router, group, {}, []), 300),
        "guardrails of the group": (lambda: guardrails(data, router, trust_client_model_info=False), 300),
    }


def _index_after_registration(litellm: Any) -> None:
    litellm.utils._invalidate_model_cost_lowercase_map()
    litellm.utils._rebuild_model_cost_lowercase_map()


async def _measure(router: Any, size: int, limited: bool, report: Report) -> None:
    import fast_router  # noqa: PLC0415 - after the environment is set

    taken: dict[str, dict[str, list[float]]] = {}
    for _ in range(_ROUNDS):
        for side in ("off", "on"):
            (fast_router.enable if side == "on" else fast_router.disable)()
            for name, (function, calls) in _items(router).items():
                times = taken.setdefault(name, {"off": [], "on": []})
                times[side].append(await _per_call(function, max(5, calls * 3 // size)))
    for name, times in taken.items():
        off, on = min(times["off"]) * 1e6, min(times["on"]) * 1e6
        report.add(name, size, "yes" if limited else "no", off, on, off / on)


def main() -> None:
    """Measure every item and report."""
    logging.disable(logging.CRITICAL)
    import litellm  # noqa: PLC0415 - after the environment is set

    import fast_router  # noqa: PLC0415

    report = Report(
        "items",
        "Bookkeeping items, µs per call",
        ["item", "deployments", "rpm and tpm limits", "LiteLLM", "fast_router", "times faster"],
    )
    for size, limited in ((3, False), (1000, False), (1000, True)):
        entries = model_list(1, size)
        for entry in entries:
            params = entry["litellm_params"]
            del params["input_cost_per_token"], params["output_cost_per_token"]
            if limited:
                params.update(rpm=10**6, tpm=10**9)
        fast_router.enable()
        router = litellm.Router(model_list=entries, num_retries=0)
        asyncio.run(_measure(router, size, limited, report))
        router.discard()
    fast_router.disable()
    report.finish()


if __name__ == "__main__":
    main()
