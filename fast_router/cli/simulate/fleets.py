"""Fleets to simulate, out of LiteLLM's YAML: `model_info.simulate` says how a deployment behaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fast_router.cache_world import ServerShape
from fast_router.cli.simulate.measure import SPREAD
from fast_router.errors import ConfigurationError, did_you_mean
from fast_router.naming import server_of
from fast_router.settings import yaml_file
from fast_router.simulation import Fault, ServerSpec

__all__ = ["Fleet", "read"]

_ADDRESS = ("api_base", "base_url")
_LATENCY = frozenset({"latency", "spread", "slots", "faults"})
_CACHE = frozenset({"prefill_rate", "prefill_latency", "per_token", "cache_blocks"})
_FAULT = frozenset({"kind", "start", "end", "share", "factor", "retry_after"})
_KINDS = ("error", "throttle", "hang", "down", "slow")


@dataclass
class Fleet:
    """One model group of a configuration.

    Attributes:
        name: The group's name.
        entries: Its deployments, as LiteLLM's YAML has them.
        ids: Their names, in that order: the server, where several have the same with `model_info.id` or a number;
            without an address the id, or the group's name and a number.
        wheres: Where each stands in the file, for messages.
        said: What `model_info.simulate` says of each.
    """

    name: str
    entries: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    wheres: list[str] = field(default_factory=list)
    said: list[dict[str, Any]] = field(default_factory=list)

    @property
    def without_latency(self) -> list[str]:
        """Deployments that do not say how long a request takes."""
        return [name for name, said in zip(self.ids, self.said, strict=True) if "latency" not in said]

    def servers(self, latencies: Mapping[str, tuple[float, float]]) -> list[ServerSpec]:
        """Make servers that are known by how long they take.

        Args:
            latencies: Median seconds and spread by name, where the file says nothing.

        Raises:
            ConfigurationError: A value is malformed; the message names it.
        """
        servers = []
        for name, where, said in zip(self.ids, self.wheres, self.said, strict=True):
            latency, spread = latencies.get(name, (0.0, SPREAD))
            servers.append(
                ServerSpec(
                    name,
                    latency=_number(said.get("latency", latency), f"{where}.latency"),
                    spread=_number(said.get("spread", spread), f"{where}.spread"),
                    slots=int(_number(said.get("slots", 32), f"{where}.slots")) or 1,
                    faults=tuple(
                        _fault(each, f"{where}.faults[{place}]") for place, each in enumerate(said.get("faults") or ())
                    ),
                )
            )
        return servers

    def shapes(self, default: ServerShape) -> list[ServerShape]:
        """Make servers that are known by how fast they compute prompts, and by their cache.

        Raises:
            ConfigurationError: A value is malformed; the message names it.
        """
        shapes = []
        for name, where, said in zip(self.ids, self.wheres, self.said, strict=True):
            rate = _number(said.get("prefill_rate", default.rate), f"{where}.prefill_rate")
            if not rate:
                raise ConfigurationError(f"{where}.prefill_rate is 0; it must be prompt tokens per second")
            blocks = said.get("cache_blocks", default.cache_blocks)
            shapes.append(
                ServerShape(
                    name,
                    rate,
                    _number(said.get("prefill_latency", default.fixed), f"{where}.prefill_latency"),
                    _number(said.get("per_token", default.decode), f"{where}.per_token"),
                    None if blocks is None else int(_number(blocks, f"{where}.cache_blocks")),
                )
            )
        return shapes


def read(path: Path, model: str | None) -> Fleet:
    """Read one model group of a file.

    Args:
        path: LiteLLM's YAML.
        model: The group; None takes the largest.

    Raises:
        ConfigurationError: It is no such file, has no such group, or an entry is malformed; the message says which.
    """
    document = yaml_file.read(str(path))
    entries = document.get("model_list") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ConfigurationError(f"{path}: no model_list with deployments in it; give LiteLLM's config.yaml")
    groups: dict[str, Fleet] = {}
    for number, entry in enumerate(entries):
        _enter(groups, entry, f"{path}: model_list[{number}]")
    name = model or max(groups, key=lambda group: len(groups[group].entries))
    if name not in groups:
        raise ConfigurationError(f"{path}: no deployment is called {name!r}; there are: {', '.join(groups)}")
    fleet = groups[name]
    fleet.ids = _names(fleet.entries, fleet.name)
    return fleet


def _names(entries: Sequence[Mapping[str, Any]], group: str) -> list[str]:
    """Name each deployment as people know it, and no two alike: the engine tells them apart by that."""
    servers = [_address(entry) for entry in entries]
    often, names = Counter(servers), dict[str, None]()
    for number, (server, entry) in enumerate(zip(servers, entries, strict=True)):
        id_ = (entry.get("model_info") or {}).get("id")
        if server is None:
            name = str(id_ or f"{group}-{number}")
        else:
            name = server if often[server] == 1 else f"{server} ({id_})" if id_ else f"{server} #{number + 1}"
        names[name if name not in names else f"{name} #{number + 1}"] = None
    return list(names)


def _address(entry: Mapping[str, Any]) -> str | None:
    """The server of an entry that has an address; the provider of any other is that of its siblings, too."""
    params = entry.get("litellm_params")
    found = server_of(
        {**entry, "litellm_params": {key: params[key] for key in _ADDRESS if key in params} if params else {}}
    )
    return None if found == "–" else found


def _enter(groups: dict[str, Fleet], entry: Any, where: str) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("model_name"), str):
        raise ConfigurationError(f"{where} has no model_name")
    info = entry.get("model_info") or {}
    said = info.get("simulate") or {}
    where += ".model_info.simulate"
    if not isinstance(said, dict):
        raise ConfigurationError(f"{where} must be a mapping such as {{latency: 0.5}}")
    _known(said, _LATENCY | _CACHE, where)
    fleet = groups.setdefault(entry["model_name"], Fleet(entry["model_name"]))
    fleet.entries.append(entry)
    fleet.wheres.append(where)
    fleet.said.append(said)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ConfigurationError(f"{where} is {value!r}; it must be a number that is not negative")
    return float(value)


def _known(found: Mapping[str, Any], names: Sequence[str] | frozenset[str], where: str) -> None:
    if unknown := sorted(set(found) - set(names)):
        remedy = did_you_mean(unknown[0], names, f"known are: {', '.join(sorted(names))}")
        raise ConfigurationError(f"{where} has {unknown[0]!r}; {remedy}")


def _fault(found: Any, where: str) -> Fault:
    if not isinstance(found, dict) or found.get("kind") not in _KINDS:
        raise ConfigurationError(f"{where} needs a kind, one of: {', '.join(_KINDS)}")
    _known(found, _FAULT, where)
    numbers = {name: _number(value, f"{where}.{name}") for name, value in found.items() if name != "kind"}
    return Fault(found["kind"], **numbers)
