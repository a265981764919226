"""What a deployment costs, as LiteLLM's cost-based routing sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["price_of"]


def price_of(entry: Mapping[str, Any]) -> float:
    """LiteLLM's price of a deployment for cost-based routing, except that a price of 0 is a price.

    Money per token, input and output added: from litellm_params, else from model_info (LiteLLM bills by both), else
    from its price list, else 5 for each.
    """
    import litellm  # noqa: PLC0415 - it is imported: its Router asks

    params, info = entry.get("litellm_params") or {}, entry.get("model_info") or {}
    listed: Mapping[str, Any] | None = None
    total = 0.0
    for key in ("input_cost_per_token", "output_cost_per_token"):
        price = params.get(key)
        if price is None:
            price = info.get(key)
        if price is None:
            if listed is None:
                listed = _listed_price(litellm, entry)
            price = listed.get(key)
        total += float(price) if isinstance(price, (int, float)) and not isinstance(price, bool) else 5.0
    return total


def _listed_price(litellm: Any, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    from litellm.router_strategy import lowest_cost  # noqa: PLC0415

    rates = getattr(lowest_cost, "_deployment_cost_map_rates", None)
    if rates is not None:
        given, taken = rates(entry)
        return {"input_cost_per_token": given, "output_cost_per_token": taken}
    found: Mapping[str, Any] = litellm.model_cost.get((entry.get("litellm_params") or {}).get("model"), {})
    return found
