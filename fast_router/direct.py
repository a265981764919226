"""Picks from a list that the caller owns and may change at any time.

A list is read once and remembered. Every call then proves that what is remembered still holds, and reads again
if not, so no answer is stale: one comparison at C speed, down to the last nested value. For an unweighted shuffle,
the most frequent case by far, less will do: a random entry of the list as it is now is drawn and that entry alone
is checked, which is a fair draw whatever has happened to the rest. (Weights written into a list that had none are
the one change such a draw cannot notice; the whole list is compared every 16 + n/8 calls for their sake.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fast_router.engine import Ask, Deployment, Engine, ModelGroup, strategy_class
from fast_router.entries import Spec, labels, read_list

__all__ = ["ListPicker"]

_LISTS = 4  # remembered at a time: a program has one or two, and each is held alive
_DRAWS = range(12)  # before an unweighted shuffle gives up drawing and scans


class ListPicker:
    """`AdvancedRouter.get_available_deployment(model_list, ...)`.

    Args:
        strategy: Canonical name.
        options: The strategy's options.
        engine: Gives clock and chance.
    """

    def __init__(self, strategy: str, options: Mapping[str, Any], engine: Engine) -> None:
        strategy_class(strategy)
        self._strategy = strategy
        self._options = options
        self._engine = engine
        self._random = engine.rng.random
        self._last: _KnownList | None = None
        self._known: dict[int, _KnownList] = {}

    def pick(
        self,
        model_list: Sequence[Mapping[str, Any]],
        model: str,
        blocked: Collection[str] | None,
    ) -> dict[str, Any] | None:
        """The caller's own dict, None when nothing fits; see `AdvancedRouter.get_available_deployment`."""
        known = self._last
        if known is None or known.source is not model_list:
            known = self._recall(model_list)
        if model in known.dense and known.credit:
            known.credit -= 1
            entries = known.entries
            length = len(entries)
            if length == len(model_list):
                for _ in _DRAWS:
                    index = int(self._random() * length)
                    entry = model_list[index]
                    if entry is not entries[index]:
                        break
                    if entry["model_name"] == model:
                        if not blocked:
                            return entry  # type: ignore[return-value]
                        if model in blocked:
                            return None
                        # `_is_blocked`, written out: a call is a fifth of this pick.
                        params = entry.get("litellm_params")
                        if params is not None and params.get("model") in blocked:
                            continue
                        info = entry.get("model_info")
                        if info is not None and info.get("id") in blocked:
                            continue
                        if ("id" in entry and entry["id"] in blocked) or ("name" in entry and entry["name"] in blocked):
                            continue
                        return entry  # type: ignore[return-value]
        if known.uniform and known.credit and len(known.entries) == len(model_list):
            # Few entries match, so drawing blindly would miss: a scan of the list as it is now.
            known.credit -= 1
            found = [entry for entry in model_list if entry["model_name"] == model]
            while found:
                index = int(self._random() * len(found))
                entry = found[index]
                if not blocked or not _is_blocked(entry, blocked):
                    return entry  # type: ignore[return-value]
                del found[index]
            return None
        return self._exact(known, model_list, model, blocked)

    def _recall(self, model_list: Sequence[Mapping[str, Any]]) -> _KnownList:
        known = self._known.get(id(model_list))
        if known is None or known.source is not model_list:
            known = _KnownList(model_list, self._strategy, self._options, self._engine)
            while len(self._known) >= _LISTS:
                self._known.pop(next(iter(self._known)))
            self._known[id(model_list)] = known
        self._last = known
        return known

    def _exact(
        self,
        known: _KnownList,
        model_list: Sequence[Mapping[str, Any]],
        model: str,
        blocked: Collection[str] | None,
    ) -> dict[str, Any] | None:
        known.verify()
        group = known.group(model)
        if group is None:
            return None
        ask = None
        if blocked:
            words = set(blocked)
            ask = Ask({d.id for d in group.members if not words.isdisjoint(known.labels[known.places[d.id]])})
        deployment = self._engine.peek(group, ask)
        return None if deployment is None else model_list[known.places[deployment.id]]  # type: ignore[return-value]


class _KnownList:
    """What was read from one list, and an image of it to compare with."""

    def __init__(
        self, source: Sequence[Mapping[str, Any]], strategy: str, options: Mapping[str, Any], engine: Engine
    ) -> None:
        self.source = source
        self._strategy = strategy
        self._options = options
        self._engine = engine
        self._deployments: dict[str, Deployment] = {}
        self._groups: dict[str, ModelGroup] = {}
        self._former: dict[str, ModelGroup] = {}
        self.read()

    def read(self) -> None:
        specs = read_list(self.source)
        self.entries = list(self.source)
        self.image = _freeze(self.source)
        self.labels = [labels(entry) for entry in self.entries]
        self.places = {spec.id: index for index, spec in enumerate(specs)}
        self.uniform = not any(
            spec.weight is not None or spec.rpm is not None or spec.tpm is not None or spec.order is not None
            for spec in specs
        )
        # How often an unweighted shuffle may answer before the whole list is compared again: that is when
        # weights written into a list without any come to light.
        self.credit = self._allowance = 16 + len(specs) // 8 if self._strategy == "simple_shuffle" else 0
        self._by_name: dict[str, list[Spec]] = {}
        for spec in specs:
            self._by_name.setdefault(spec.name, []).append(spec)
        self.uniform = self.uniform and self._strategy == "simple_shuffle"
        self.dense = (
            {name for name, group in self._by_name.items() if len(group) * (4 if len(specs) > 8 else 2) >= len(specs)}
            if self.uniform
            else set()
        )
        self._former, self._groups = self._groups, {}

    def verify(self) -> None:
        """Read again unless the list is what it was, down to the last nested value."""
        if self.image != self.source:
            self.read()
        else:
            self.credit = self._allowance

    def group(self, model: str) -> ModelGroup | None:
        """The group of that name, compiled at its first use."""
        group = self._groups.get(model)
        if group is None:
            specs = self._by_name.get(model)
            if specs is None:
                return None
            members = []
            for spec in specs:
                deployment = self._deployments.get(spec.id)
                if deployment is None:
                    deployment = self._deployments[spec.id] = Deployment(
                        spec.id, spec.name, spec.entry, **spec.limits()
                    )
                else:
                    deployment.update(spec.name, spec.entry, **spec.limits())
                members.append(deployment)
            strategy = next((spec.strategy for spec in specs if spec.strategy), self._strategy)
            group = self._groups[model] = self._engine.compile_group(
                model, members, strategy, self._options, replaces=self._former.pop(model, None)
            )
        return group


def _is_blocked(entry: Mapping[str, Any], blocked: Collection[str]) -> bool:
    # `labels`, one word after the other without building the set.
    if entry["model_name"] in blocked:
        return True
    params = entry.get("litellm_params")
    if params is not None and params.get("model") in blocked:
        return True
    info = entry.get("model_info")
    if info is not None and info.get("id") in blocked:
        return True
    return ("id" in entry and entry["id"] in blocked) or ("name" in entry and entry["name"] in blocked)


def _freeze(value: Any) -> Any:
    """A copy of the containers, the leaves themselves: comparing with it is one C call, mostly by identity."""
    if isinstance(value, dict):
        return {key: _freeze(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_freeze(item) for item in value]
    return value
