"""What `fast_router.status()` says."""

from __future__ import annotations

import sys
from typing import Any

from fast_router import environment_switch
from fast_router.litellm_plugin.bands.contract import Seam
from fast_router.litellm_plugin.switch import WATCHED, switch
from fast_router.version import __version__

__all__ = ["status"]


def status() -> dict[str, Any]:
    """What is on, what is patched, who picked, ready for JSON; no key, header or prompt in it.

    `picks` counts `fast` (answered from a compiled plan), `request_lane` (LiteLLM 1.110: the whole request goes without
    its walk), `filtered` (LiteLLM's filters ran, we chose among what they left) and `delegated` (LiteLLM chose), the
    last two by reason. `shared_state` lists the Routers that
    share their state over Redis: who else is there, and whether Redis answers (or that `limits: strict` has none).
    `resting` lists the deployments that rest or have yet to prove that they are back: model, id, state, reason,
    seconds_left. `celery` is there while Celery routing is on: whether broker and Redis answer, `picks` by workers,
    `local_picks` by reason. `rollout` is there while that setting is below 100 or observe, `experiment` while there is
    one: both arms, side by side.
    `names_translated`: our strategies are off, and configurations that name one start all the same. `capabilities` says
    of each whether it is on, and why or why not.
    """
    from fast_router.litellm_plugin.capabilities import capabilities  # noqa: PLC0415
    from fast_router.litellm_plugin.tally import resting, tally  # noqa: PLC0415

    with switch.lock:
        band = switch.band
        patched = switch.patches.patched if switch.patches is not None else []
        late = sorted(switch.patches.late) if switch.patches is not None else []
        left_out = switch.patches.skipped if switch.patches is not None else {}
        skipped = {**switch.skipped, **{name: why for name, why in left_out.items() if name not in late}}
        # Where the request lane is on, it stands in the place of a fast lane: nothing is missing.
        if band is not None and switch.enabled and "lane" not in switch.features and (why := band.lacks(Seam.PICK)):
            skipped["fast lane"] = why
        features = [*switch.features, *late]
        return {
            "version": __version__,
            "enabled": switch.enabled,
            "switched_off_by_environment": environment_switch.off(),
            "names_translated": switch.names is not None,
            "waiting_for_litellm": switch.wanted and not switch.enabled and WATCHED not in sys.modules,
            "litellm": band.version if band is not None else None,
            "band": band.name if band is not None else None,
            "patched": patched,
            "patched_over": list(switch.stuck),
            "features": features,
            "skipped": skipped,
            "capabilities": capabilities(band, features, skipped, _why_off()),
            **tally.report(),
            "shared_state": _shared_state(),
            "resting": resting(),
            **_celery(),
            **_rollout(),
        }


def _why_off() -> str:
    if environment_switch.off():
        return "FAST_ROUTER_ENABLED switches fast_router off"
    if not switch.enabled and WATCHED not in sys.modules:
        return "LiteLLM is not imported yet"
    return "" if switch.enabled else "fast_router is off"


def _shared_state() -> list[dict[str, Any]]:
    # Not imported for the sake of a report: who shares state has it loaded.
    cluster = sys.modules.get("fast_router.cluster")
    return cluster.statuses() if cluster is not None else []


def _celery() -> dict[str, Any]:
    process = sys.modules.get("fast_router.celery_routing.process")
    found = process.status() if process is not None else None
    return {} if found is None else {"celery": found}


def _rollout() -> dict[str, Any]:
    rollout = sys.modules.get("fast_router.litellm_plugin.rollout")
    return rollout.report() if rollout is not None else {}
