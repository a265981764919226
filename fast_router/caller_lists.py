"""Picks from a list that the caller owns and may change at any time.

A list is read once and remembered. Every call then proves that what is remembered still holds, and reads again
if not, so no answer is stale: one comparison at C speed, down to the last nested value. For an unweighted shuffle over
a long list, the most frequent case by far, less will do: an entry is drawn and that entry alone is compared, or, where
few entries match, the names are. (Weights written into a long list that had none are the one change that this cannot
notice at once; the whole list is compared every 16 + n/8 calls for their sake.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import floor
from operator import itemgetter
from typing import Any

from fast_router.engine import Ask, Deployment, Engine, ModelGroup, strategy_class
from fast_router.model_entry import Spec, labels, read_list

__all__ = ["NO_MODEL", "PicksFromLists"]

_LISTS = 4  # remembered at a time: a program has one or two, and each is held alive
_DRAWS = range(12)  # before an unweighted shuffle gives up drawing
_SHORT = 8  # a list up to here is compared as a whole in no more time than a draw takes
_NOTHING = object()
_name_of = itemgetter("model_name")
NO_MODEL = "get_available_deployment() needs the name of a model: get_available_deployment({})"


class PicksFromLists:
    """The part of `AdvancedRouter` that picks from a list given with the call.

    Args:
        strategy: Canonical name.
        options: The strategy's options.
        engine: Gives clock and chance.
    """

    def __init__(self, strategy: str, options: Mapping[str, Any], engine: Engine) -> None:
        strategy_class(strategy)
        self._strategy = strategy
        self.options = options
        self.engine = engine
        self._random = engine.rng.random
        self._short: tuple[Any, ...] = (_NOTHING, None, {}, self._random)
        self._last: _KnownList = _KnownList((), strategy, options, engine)
        self._known: dict[int, _KnownList] = {}

    def get_available_deployment(
        self,
        model_list: Sequence[Mapping[str, Any]] | None = None,
        model: str | None = None,
        blocked_models: Collection[str] | str | None = None,
    ) -> dict[str, Any] | None:
        """The deployment for a call to `model`: the caller's own dict, None when nothing fits.

        Args:
            model_list: The caller's list, never changed. None: the list given to the constructor.
            model: The model name.
            blocked_models: Words that rule a deployment out: its model_name, litellm_params.model, id or name;
                a text is one word.

        Raises:
            ConfigurationError: `model_list` is malformed; the message names the entry.
            TypeError: No model was named.
        """
        try:
            source, image, choices, random = self._short
            if source is model_list and image == source:
                count, places = choices[model]
                # Not `labels`: a method of a local that is named like an import is looked up the slow way (3.11).
                index, words = places[floor(random() * count)]
                if not blocked_models or (words.isdisjoint(blocked_models) and blocked_models.__class__ is not str):
                    return source[index]  # type: ignore[index, no-any-return]
        except (IndexError, KeyError):
            pass  # no such model, or another thread has just made the list shorter
        if isinstance(blocked_models, str):
            blocked_models = (blocked_models,)  # one word, not its letters
        if model_list is None:
            return self._from_kept(model, blocked_models)
        if model is None:
            raise TypeError(NO_MODEL.format("model_list, 'gpt-4'"))
        known = self._last
        if known.source is not model_list:
            known = self._recall(model_list)
        if known.credit and model in known.choices:
            known.credit -= 1
            drawn = self._drawn(known, model_list, model, blocked_models)
            if drawn is not None:
                return drawn
        return self._exact(known, model_list, model, blocked_models)

    def _from_kept(self, model: str | None, blocked: Collection[str] | None) -> dict[str, Any] | None:
        """A pick from the list given to the constructor."""
        raise NotImplementedError

    def _drawn(
        self,
        known: _KnownList,
        model_list: Sequence[Mapping[str, Any]],
        model: str,
        blocked: Collection[str] | None,
    ) -> dict[str, Any] | None:
        """A draw from a long list without weights; None if it misses, or meets anything that has changed."""
        entries = known.entries
        try:
            if model in known.dense and len(entries) == len(model_list):
                for _ in _DRAWS:
                    index = floor(self._random() * len(entries))
                    entry = model_list[index]
                    if entry is not entries[index]:
                        return None
                    if entry["model_name"] == model:
                        if entry != known.image[index]:
                            return None
                        if not blocked or known.labels[index].isdisjoint(blocked):
                            return entry  # type: ignore[return-value]
            elif entries == model_list and known.names == list(map(_name_of, model_list)):
                indices = known.choices[model]
                index = indices[floor(self._random() * len(indices))]
                entry = model_list[index]
                if entry == known.image[index] and (not blocked or known.labels[index].isdisjoint(blocked)):
                    found: dict[str, Any] = entry
                    return found
        except (IndexError, KeyError, TypeError):
            # Another thread has made the list shorter, or an entry has lost its name: the exact way says so in words.
            return None
        return None

    def _recall(self, model_list: Sequence[Mapping[str, Any]]) -> _KnownList:
        known = self._known.get(id(model_list))
        if known is None or known.source is not model_list:
            known = _KnownList(model_list, self._strategy, self.options, self.engine)
        return self._remember(known)

    def _remember(self, known: _KnownList) -> _KnownList:
        self._known.pop(id(known.source), None)
        while len(self._known) >= _LISTS:
            self._known.pop(next(iter(self._known)))
        self._known[id(known.source)] = self._last = known
        if known.short:
            # What the shortest way needs, in one read.
            places = {
                name: (len(indices), [(index, known.labels[index]) for index in indices])
                for name, indices in known.choices.items()
            }
            self._short = (known.source, known.image, places, self._random)
        return known

    def _exact(
        self,
        known: _KnownList,
        model_list: Sequence[Mapping[str, Any]],
        model: str,
        blocked: Collection[str] | None,
    ) -> dict[str, Any] | None:
        if known.holds():
            known.credit = known.allowance
        else:
            known = self._remember(_KnownList(model_list, self._strategy, self.options, self.engine, known))
        group = known.group(model)
        if group is None:
            return None
        ask = None
        if blocked:
            words = set(blocked)
            ask = Ask({d.id for d in group.members if not words.isdisjoint(known.labels[known.places[d.id]])})
        deployment = self.engine.peek(group, ask)
        if deployment is None:
            return None
        place = known.places[deployment.id]
        try:
            return model_list[place]  # type: ignore[return-value]
        except IndexError:
            # Another thread has just made the list shorter; this entry was in it when the call came.
            return known.entries[place]  # type: ignore[return-value]


class _KnownList:
    """What was read from one list, and an image of it to compare with."""

    def __init__(
        self,
        source: Sequence[Mapping[str, Any]],
        strategy: str,
        options: Mapping[str, Any],
        engine: Engine,
        former: _KnownList | None = None,
    ) -> None:
        self.source = source
        self._strategy = strategy
        self._options = options
        self._engine = engine
        self._groups: dict[str, ModelGroup] = {}
        self._former: dict[str, ModelGroup] = {}
        self._deployments: dict[str, Deployment] = {}
        specs = read_list(source)
        self.entries = list(source)
        self.image = [_freeze(entry) for entry in self.entries]
        self.labels = [labels(entry) for entry in self.entries]
        self.places = {spec.id: index for index, spec in enumerate(specs)}
        self._by_name: dict[str, list[Spec]] = {}
        for spec in specs:
            self._by_name.setdefault(spec.name, []).append(spec)
        # For the short ways of an unweighted shuffle: names in order, and each model's places in the list. Another
        # kind of sequence than a list would compare as different.
        uniform = (
            strategy == "simple_shuffle"
            and type(source) is list
            and not any(
                word is not None
                for spec in specs
                for word in (spec.weight, spec.rpm, spec.tpm, spec.order, spec.strategy)
            )
        )
        self.short = uniform and len(specs) <= _SHORT
        self.names = [spec.name for spec in specs]
        self.choices: dict[str, list[int]] = {}
        self.dense: set[str] = set()
        # How often an answer may be given before the whole list is compared again: that is when weights written
        # into a list without any come to light.
        self.credit = self.allowance = 16 + len(specs) // 8 if uniform and not self.short else 0
        if uniform:
            for index, name in enumerate(self.names):
                self.choices.setdefault(name, []).append(index)
            self.dense = {name for name, indices in self.choices.items() if len(indices) * 4 >= len(specs)}
        if former is not None:
            # Live numbers outlast a change of the list; what nobody asked for since the last change does not.
            self._former = former._groups
            self._deployments = {id_: d for id_, d in former._deployments.items() if id_ in self.places}
            for group in former._former.values():
                engine.drop_group(group)

    def holds(self) -> bool:
        """True if the list is what it was, down to the last nested value."""
        source = self.source
        return self.image == (source if type(source) is list else list(source))

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


def _freeze(value: Any) -> Any:
    """A copy of the containers, the leaves themselves: comparing with it is one C call, mostly by identity."""
    if isinstance(value, dict):
        return {key: _freeze(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_freeze(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_freeze(item) for item in value)
    return value
