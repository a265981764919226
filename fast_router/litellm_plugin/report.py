"""What `fast_router.status()` says."""

from __future__ import annotations

import sys
from typing import Any

from fast_router.litellm_plugin.hook import _WATCHED, _off_by_environment, _switch
from fast_router.version import __version__

__all__ = ["status"]


def status() -> dict[str, Any]:
    """What is on, what is patched, who picked, ready for JSON; no key, header or prompt in it.

    `picks` counts `fast` (answered from a compiled plan), `filtered` (LiteLLM's filters ran, we chose among
    what they left) and `delegated` (LiteLLM chose), the last two by reason. `shared_state` lists the Routers that
    share their state over Redis: who else is there, and whether Redis answers (or that `limits: strict` has none).
    `resting` lists the deployments that rest or have yet to prove that they are back: model, id, state, reason,
    seconds_left. `celery` is there while Celery routing is on: whether broker and Redis answer, `picks` by workers,
    `local_picks` by reason.
    """
    from fast_router.litellm_plugin.tally import resting, tally  # noqa: PLC0415

    with _switch.lock:
        band = _switch.band
        patched = _switch.patches.patched if _switch.patches is not None else []
        late = sorted(_switch.patches.late) if _switch.patches is not None else []
        skipped = dict(_switch.skipped)
        if band is not None and _switch.enabled and not band.fast_lane:
            unknown = f"the routing code of LiteLLM {band.version} is not one that was checked against"
            skipped["fast lane"] = band.no_fast_lane or unknown
        return {
            "version": __version__,
            "enabled": _switch.enabled,
            "switched_off_by_environment": _off_by_environment(),
            "waiting_for_litellm": _switch.wanted and not _switch.enabled and _WATCHED not in sys.modules,
            "litellm": band.version if band is not None else None,
            "band": band.name if band is not None else None,
            "patched": patched,
            "patched_over": list(_switch.stuck),
            "features": [*_switch.features, *late],
            "skipped": skipped,
            **tally.report(),
            "shared_state": _shared_state(),
            "resting": resting(),
            **_celery(),
        }


def _shared_state() -> list[dict[str, Any]]:
    # Not imported for the sake of a report: who shares state has it loaded.
    cluster = sys.modules.get("fast_router.cluster")
    return cluster.statuses() if cluster is not None else []


def _celery() -> dict[str, Any]:
    process = sys.modules.get("fast_router.celery_routing.process")
    found = process.status() if process is not None else None
    return {} if found is None else {"celery": found}
