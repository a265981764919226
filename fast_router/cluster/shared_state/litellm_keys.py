"""Mixed fleets: LiteLLM's own cooldown and usage keys, so that proxies without us see the same world.

The keys and values are LiteLLM's (router_utils/cooldown_cache.py, types/router.py `RouterCacheEnum`,
router_strategy/lowest_tpm_rpm_v2.py; the same from 1.83 to 1.109).

* ``deployment:<id>:cooldown`` holds exception, status, timestamp and cooldown time, and lives as long.
* ``global_router:<id>:<model>:rpm|tpm:<HH-MM>`` counts deployments that have limits, UTC.
* ``<id>:<model>:rpm|tpm:<HH-MM>`` counts for usage-based-routing-v2.

Inside a proxy LiteLLM's own code writes the usage keys; we then only read. Their sums include this process.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.engine import Deployment

__all__ = ["LiteLLMKeys"]

_PER_COMMAND = 500
_USAGE_TTL = 60
_SLACK = 1.0
"""Seconds by which two clocks may differ without anybody caring."""


class LiteLLMKeys:
    """Commands on LiteLLM's keys, and what their answers mean.

    Args:
        namespace: LiteLLM's key namespace, None for none.
        scattered: True for a cluster, where one command cannot read several keys.
        writes_usage: True if nobody else counts this process's usage in LiteLLM's keys.
    """

    def __init__(self, *, namespace: str | None = None, scattered: bool = False, writes_usage: bool = False) -> None:
        self._prefix = f"{namespace}:" if namespace else ""
        self._scattered = scattered
        self.writes_usage = writes_usage

    # -- cooldowns -------------------------------------------------------------------------------

    def cooldown_key(self, deployment_id: str) -> str:
        """The key of a deployment's cooldown."""
        return f"{self._prefix}deployment:{deployment_id}:cooldown"

    def read_cooldowns(self, deployment_ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Commands that read all cooldowns: one for 500 deployments."""
        return self._read([self.cooldown_key(id_) for id_ in deployment_ids])

    def cooldowns(
        self, deployment_ids: Sequence[str], answers: Sequence[Any], now: float
    ) -> tuple[dict[str, float], list[str]]:
        """Who cools down, and for how many more seconds.

        Args:
            deployment_ids: As given to `read_cooldowns`.
            answers: What Redis answered.
            now: Seconds since the epoch, by the server's clock.

        Returns:
            The seconds by id, and the ids whose value says what cannot be: over although the key is there, or
            longer than a whole cooldown. Whoever wrote it has a wrong clock; the key's own term is right.
        """
        known: dict[str, float] = {}
        doubtful: list[str] = []
        for id_, raw in zip(deployment_ids, self._flat(answers), strict=False):
            if raw is not None:
                left, whole = _remaining(raw, now)
                if 0 < left <= whole + _SLACK:
                    known[id_] = left
                elif whole > 0:
                    doubtful.append(id_)
        return known, doubtful

    def loaded(self, answers: Sequence[Any]) -> list[Any]:
        """What Redis answered to `read_cooldowns`, as LiteLLM reads it: a dict, or None for nothing that is one."""
        found = (None if raw is None else _load(raw) for raw in self._flat(answers))
        return [value if isinstance(value, dict) else None for value in found]

    def write_cooldown(self, deployment_id: str, seconds: float, now: float, reason: str | None) -> tuple[Any, ...]:
        """The command that tells LiteLLM's proxies about a rest of `seconds`."""
        value = {
            "exception_received": reason or "rests (fast_router)",
            "status_code": "429",
            "timestamp": now,
            "cooldown_time": seconds,
        }
        return ("SET", self.cooldown_key(deployment_id), json.dumps(value), "PX", max(1, int(seconds * 1000)))

    def end_cooldown(self, deployment_id: str) -> tuple[Any, ...]:
        """The command that tells LiteLLM's proxies that a rest is over."""
        return ("DEL", self.cooldown_key(deployment_id))

    # -- usage -----------------------------------------------------------------------------------

    def usage_keys(self, deployment: Deployment, minute: int) -> tuple[str, str]:
        """The keys of a deployment's requests and tokens in `minute` (minutes since the epoch)."""
        model = _model(deployment.entry)
        clock = datetime.fromtimestamp(minute * 60, tz=timezone.utc).strftime("%H-%M")
        limits = deployment.rpm is not None or deployment.tpm is not None
        middle = f"{'global_router:' if limits else ''}{deployment.id}:{model}"
        return f"{self._prefix}{middle}:rpm:{clock}", f"{self._prefix}{middle}:tpm:{clock}"

    def read_usage(self, deployments: Sequence[Deployment], minute: int) -> list[tuple[Any, ...]]:
        """Commands that read requests and tokens of all `deployments`."""
        return self._read([key for d in deployments for key in self.usage_keys(d, minute)])

    def usage(self, deployments: Sequence[Deployment], answers: Sequence[Any]) -> dict[str, tuple[float, float]]:
        """Deployment id → requests and tokens of everybody in that minute."""
        flat = self._flat(answers)
        return {
            d.id: (_count(flat[2 * i]), _count(flat[2 * i + 1]))
            for i, d in enumerate(deployments)
            if 2 * i + 1 < len(flat)
        }

    def usage_totals(self, deployments: Sequence[Deployment], answers: Sequence[Any], minute: int) -> dict[str, float]:
        """Key → what Redis answered to `read_usage`, for the keys that are there."""
        keys = [key for d in deployments for key in self.usage_keys(d, minute)]
        return {key: _count(raw) for key, raw in zip(keys, self._flat(answers), strict=False) if raw is not None}

    def write_usage(
        self, deployments: Iterable[Deployment], more: Mapping[str, tuple[float, float]], minute: int
    ) -> list[tuple[Any, ...]]:
        """Commands that add this process's usage, `more` by deployment id."""
        out: list[tuple[Any, ...]] = []
        for deployment in deployments:
            pair = more.get(deployment.id)
            if pair is not None:
                for key, amount in zip(self.usage_keys(deployment, minute), pair, strict=True):
                    if amount:
                        out += [("INCRBYFLOAT", key, amount), ("EXPIRE", key, _USAGE_TTL)]
        return out

    # -- reading ---------------------------------------------------------------------------------

    def _read(self, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        if self._scattered:
            return [("GET", key) for key in keys]
        return [("MGET", *keys[at : at + _PER_COMMAND]) for at in range(0, len(keys), _PER_COMMAND)]

    def _flat(self, answers: Sequence[Any]) -> list[Any]:
        if self._scattered:
            return list(answers)
        flat: list[Any] = []
        for answer in answers:
            flat += answer if isinstance(answer, list) else [None] * _PER_COMMAND
        return flat


def _model(entry: Mapping[str, Any]) -> str:
    params = entry.get("litellm_params")
    return str(params.get("model", "")) if isinstance(params, Mapping) else ""


def _remaining(raw: object, now: float) -> tuple[float, float]:
    """Seconds that are left, and of how many."""
    value = _load(raw)
    if not isinstance(value, dict):
        return 0.0, 0.0
    try:
        whole = float(value["cooldown_time"])
        left = float(value["timestamp"]) + whole - now
    except (KeyError, TypeError, ValueError):
        return 0.0, 0.0
    return (left, whole) if math.isfinite(left) else (0.0, 0.0)


def _load(raw: object) -> object:
    # LiteLLM writes JSON from its async path and a Python literal from its sync one.
    if isinstance(raw, bytes):
        raw = raw.decode("utf-8", "replace")
    if not isinstance(raw, str) or len(raw) > 100_000:
        return None
    try:
        return json.loads(raw)
    except ValueError:
        try:
            return ast.literal_eval(raw)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None


def _count(raw: object) -> float:
    try:
        value = float(raw)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0
