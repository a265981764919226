"""AdvancedRouter: the engine as a class of its own, for programs with or without LiteLLM.

The same class stands behind every `litellm.Router` that the plugin serves.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fast_router import operator_holds
from fast_router.caller_lists import NO_MODEL, PicksFromLists
from fast_router.changes import Changes
from fast_router.engine import Ask, Deployment, Engine, Lease, ModelGroup, canonical, outside
from fast_router.engine.ask import Rng
from fast_router.engine.deployment import RESTING
from fast_router.engine.prefix_cache.prompt import Prompt
from fast_router.engine.strategies import accepts, check_options
from fast_router.engine.token_counts import counted
from fast_router.errors import NoDeploymentError, UnknownModelError
from fast_router.explain import explain
from fast_router.model_entry import Spec, read_entry, read_list
from fast_router.stats import snapshot

if TYPE_CHECKING:
    from fast_router.engine.failover.breaker import Change
    from fast_router.engine.failover.policy import FailoverPolicy
    from fast_router.lease_experiment import LeaseExperiment

__all__ = ["AdvancedRouter", "LeaseContext", "live_routers"]

# As many characters of an id as people may give in its place; `fast-router status` prints the first 16.
_PREFIX = 8

_ARGUMENTS = ("model_list", "clock", "wall", "rng", "experiment")

_numbers = itertools.count()
_live: weakref.WeakSet[AdvancedRouter] = weakref.WeakSet()


def live_routers() -> list[AdvancedRouter]:
    """Every router of this process, oldest first: those constructed by hand and those behind `litellm.Router`s."""
    return sorted(_live, key=lambda router: router.number)


operator_holds.governed.append(live_routers)


class AdvancedRouter(PicksFromLists):
    """Picks deployments, counts what is in flight, learns from how calls end.

    Two ways to use it. With a list of your own in every call, as a function of that list::

        AdvancedRouter("least_busy").get_available_deployment(model_list, "gpt-4", blocked_models=["gpt-4-eu"])

    With a list that it keeps, in constant time and with leases::

        router = AdvancedRouter("peak_ewma", model_list=[...])
        with router.lease("gpt-4") as lease:
            call(lease.entry["endpoint"])

    Args:
        strategy: A strategy's name; LiteLLM's spellings and hyphens are fine.
        model_list: Deployments to keep; see `fast_router.model_entry` for both kinds of entry.
        clock: Monotonic seconds.
        wall: Seconds since the epoch, for rpm and tpm minutes.
        rng: The source of chance; a seeded `random.Random` makes the picks repeatable.
        experiment: `{"strategy": "cache_aware", "share": 20}` has so many percent of the leases picked by another
            strategy; `stats()["experiment"]` compares the two. A lease with a `key` is in the arm of that key.
        options: Options of the strategy, for example `lowest_latency_buffer=0.1`, or of one that an entry of
            `model_list` names.

    Raises:
        UnknownStrategyError: Nobody registered `strategy`; the message lists the known ones.
        ConfigurationError: `model_list` is malformed; the message names the entry. Or no strategy has such an option,
            or its value is wrong; the message asks for the name that was probably meant.
    """

    def __init__(
        self,
        strategy: str = "simple_shuffle",
        *,
        model_list: Sequence[Mapping[str, Any]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: Rng | None = None,
        experiment: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        _check_options(canonical(strategy), options, model_list or ())
        super().__init__(canonical(strategy), options, Engine(clock=clock, wall=wall, rng=rng))
        self.number = next(_numbers)
        self.groups: dict[str, ModelGroup] = {}
        self.failover: FailoverPolicy | None = None
        # What the `litellm.Router` that this one picks for is set to: its models' groups go by that.
        self.routes_by: str | None = None
        self.changes = Changes(self.engine)
        # Has everything listed that the `litellm.Router` has, before somebody looks.
        self.complete: Callable[[], None] | None = None
        # Says how LiteLLM's picks of a model go, where one has a lane.
        self.lane: Callable[[str], str | None] | None = None
        # Has every entry read anew, where the list is not kept here.
        self.reader: Callable[[], None] | None = None
        self.engine.on_configured.append(operator_holds.configured)
        self._specs: list[Spec] = []
        self.experiment: LeaseExperiment | None = None
        if experiment:
            from fast_router.lease_experiment import LeaseExperiment  # noqa: PLC0415 - few have one

            self.experiment = LeaseExperiment(self.engine, experiment)
        if model_list is not None:
            self.set_model_list(model_list)
        _live.add(self)

    @property
    def strategy(self) -> str:
        """The strategy's canonical name; for a `litellm.Router` with a strategy of LiteLLM's alone, LiteLLM's name."""
        return self.routes_by or self._strategy

    @property
    def deployments(self) -> dict[str, Deployment]:
        """Every deployment by id."""
        return self.engine.deployments

    # -- the list --------------------------------------------------------------------------------

    def set_model_list(self, model_list: Sequence[Mapping[str, Any]]) -> None:
        """Replace the deployments; what is known about those that stay (by id) stays too.

        Raises:
            ConfigurationError: The list is malformed; nothing has changed then.
        """
        self._apply(read_list(model_list))

    def add_deployment(self, entry: Mapping[str, Any]) -> str:
        """Add or replace one deployment and return its id.

        Raises:
            ConfigurationError: The entry is malformed; nothing has changed then.
        """
        spec = read_entry(entry, "deployment", len(self._specs))
        self._apply([*(s for s in self._specs if s.id != spec.id), spec])
        return spec.id

    def remove_deployment(self, deployment_id: str) -> bool:
        """Remove one deployment; open leases on it end in their own time. True if it was there."""
        left = [s for s in self._specs if s.id != deployment_id]
        found = len(left) != len(self._specs)
        if found:
            self._apply(left)
        return found

    def _apply(self, specs: list[Spec]) -> None:
        for spec in specs:
            if spec.strategy is not None:
                canonical(spec.strategy)
        engine = self.engine
        with engine.lock:
            members: dict[str, list[Deployment]] = {}
            strategies: dict[str, str] = {}
            kept: dict[str, Deployment] = {}
            for spec in specs:
                deployment = engine.deployments.get(spec.id)
                if deployment is None:
                    deployment = Deployment(spec.id, spec.name, spec.entry, **spec.limits())
                else:
                    deployment.update(spec.name, spec.entry, **spec.limits())
                kept[spec.id] = deployment
                members.setdefault(spec.name, []).append(deployment)
                if spec.strategy is not None:
                    strategies.setdefault(spec.name, spec.strategy)
                engine.apply_limits(deployment)
            former, self.groups = self.groups, {}
            engine.deployments.clear()
            engine.deployments.update(kept)
            for name, group in former.items():
                if name not in members:
                    engine.drop_group(group)
            for name, deployments in members.items():
                self.groups[name] = engine.compile_group(
                    name,
                    deployments,
                    strategies.get(name, self._strategy),
                    self.options,
                    replaces=former.get(name),
                )
            self._specs = specs

    def reread(self) -> None:
        """Read every entry anew and compile the groups by it: an operator has set a weight, or taken it back."""
        if self.reader is not None:
            self.reader()
        else:
            self._apply(self._specs)

    # -- picks -----------------------------------------------------------------------------------

    def _from_kept(self, model: str | None, blocked: Collection[str] | None) -> dict[str, Any] | None:
        if model is None:
            raise TypeError(NO_MODEL.format("model='gpt-4'"))
        group = self.groups.get(model)
        if group is None:
            return None
        ask = Ask(self._blocked(group, blocked)) if blocked else None
        deployment = self.engine.peek(group, ask)
        return None if deployment is None else deployment.entry  # type: ignore[return-value]

    @staticmethod
    def _blocked(group: ModelGroup, words: Collection[str]) -> set[str]:
        from fast_router.model_entry import labels  # noqa: PLC0415

        ruled = set(words)
        return {d.id for d in group.members if d.id in ruled or not ruled.isdisjoint(labels(d.entry))}

    def acquire(
        self,
        model: str,
        *,
        exclude: Collection[str] = (),
        tokens: float = 0,
        stream: bool = False,
        key: str | None = None,
    ) -> Lease:
        """Pick a deployment and count a call on it, until the lease is released.

        Args:
            model: The model name.
            exclude: Ids that must not be picked, such as those tried before; one id may stand by itself.
            tokens: Prompt tokens, for deployments with a tokens/minute limit; what is no such number counts as unknown.
            stream: True if the answer is streamed.
            key: What strategies with affinity go by: the session for `session_affinity`, the whole prompt as text for
                `cache_aware`, which keeps nothing of it but hashes.

        Raises:
            UnknownModelError: No deployment has that model name.
            NoDeploymentError: All rest, are full or excluded; `retry_after` says when the first may be back.
            TypeError: `key` is no text.
        """
        group = self.group(model)
        ask = None
        if exclude or tokens or stream or key is not None:
            ask = self._ask(group, exclude, tokens, stream, key)
        lease = (self.engine if self.experiment is None else self.experiment).acquire(group, ask)
        if lease is None:
            raise self.unavailable(group, () if ask is None else ask.exclude)
        return lease

    @staticmethod
    def _ask(group: ModelGroup, exclude: Collection[str], tokens: float, stream: bool, key: str | None) -> Ask:
        said: object = key
        if said is not None and not isinstance(said, str):
            msg = f"key is text (a session's name, or the whole prompt), not {type(said).__name__}"
            raise TypeError(msg)
        # One word is one id, not the letters that it has.
        ask = Ask((exclude,) if isinstance(exclude, str) else exclude, counted(tokens), stream, key)
        if key and group.reads_prompts:
            # Before the lock is taken: the longest part of such a pick.
            ask.prompt = Prompt(key, ask.tokens)
        return ask

    def unavailable(self, group: ModelGroup, exclude: Collection[str] = ()) -> NoDeploymentError:
        """The error that says why nobody in `group` is eligible, and until when."""
        left = [d for d in group.members if d.id not in exclude]
        wait = self.engine.soonest(left) if left else None
        resting = sum(1 for d in left if d.held & RESTING)
        when = f"; the first is back in {wait:.1f} s" if wait else ""
        msg = (
            f"no deployment of {group.name!r} is available: {len(group.members)} in the group, "
            f"{len(group.members) - len(left)} excluded, {resting} resting, {len(left) - resting} otherwise held{when}"
        )
        return NoDeploymentError(msg, retry_after=wait)

    def lease(
        self,
        model: str,
        *,
        exclude: Collection[str] = (),
        tokens: float = 0,
        stream: bool = False,
        key: str | None = None,
    ) -> LeaseContext:
        """`with router.lease("gpt-4") as lease:` (or `async with`): success or failure is how the block ends.

        Args:
            model: The model name.
            exclude: As for `acquire`, like the others.
            tokens: Prompt tokens.
            stream: True if the answer is streamed.
            key: Session or prefix.

        Raises:
            UnknownModelError: As `acquire`, when the block begins.
            NoDeploymentError: The same.
        """
        return LeaseContext(self, model, {"exclude": exclude, "tokens": tokens, "stream": stream, "key": key})

    def report(
        self,
        lease: Lease,
        error: BaseException | None = None,
        *,
        completion_tokens: float = 0,
        total_tokens: float = 0,
        cancelled: bool = False,
        prompt_tokens: float = 0,
        cached_tokens: float | None = None,
    ) -> bool:
        """Say how an acquired call ended, for callers that cannot use a block; False if it was said before."""
        return lease.release(
            error,
            completion_tokens=completion_tokens,
            total_tokens=total_tokens,
            cancelled=cancelled,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
        )

    def group(self, model: str) -> ModelGroup:
        """The model group of that name.

        Raises:
            UnknownModelError: There is none; the message lists those there are.
        """
        group = self.groups.get(model)
        if group is None:
            names = ", ".join(repr(name) for name in list(self.groups)[:20]) or "none: give a model_list"
            msg = f"no deployment serves the model {model!r}; known models: {names}"
            raise UnknownModelError(msg)
        return group

    # -- eligibility -----------------------------------------------------------------------------

    def rest(self, deployment_id: str, seconds: float) -> bool:
        """Let a deployment rest for `seconds`; a longer rest that it has already stays.

        Args:
            deployment_id: Its id, or eight characters or more that no other id begins with.
            seconds: How long.

        Returns:
            False if there is no such deployment, or more than one.
        """
        deployment = self._named(deployment_id)
        if deployment is not None:
            self.engine.rest(deployment, seconds)
        return deployment is not None

    def wake(self, deployment_id: str, *, reason: str = "woken by hand") -> bool:
        """End a deployment's rest now.

        Args:
            deployment_id: As for `rest`.
            reason: Why, for the log.

        Returns:
            False if there is no such deployment, or more than one.
        """
        deployment = self._named(deployment_id)
        if deployment is not None and self.failover is not None:
            self.failover.wake(deployment, reason)
        elif deployment is not None:
            self.engine.wake(deployment)
        return deployment is not None

    def _named(self, deployment_id: str) -> Deployment | None:
        deployments = self.engine.deployments
        found = deployments.get(deployment_id)
        if found is not None or len(deployment_id) < _PREFIX:
            return found
        with self.engine.lock:
            near = [deployment for id_, deployment in deployments.items() if id_.startswith(deployment_id)]
        return near[0] if len(near) == 1 else None

    def enable_failover(self, **options: Any) -> FailoverPolicy:
        """Let deployments that fail rest, come back with a single probe, and start slowly; once is enough.

        Args:
            options: Arguments of `fast_router.engine.failover.policy.FailoverPolicy`, such as
                `options=BreakerOptions(cooldown=10)`.

        Returns:
            The policy, also to be found as `failover`.
        """
        if self.failover is None:
            from fast_router.engine.failover.policy import FailoverPolicy  # noqa: PLC0415 - only who asks for it pays

            def members(deployment: Deployment) -> Sequence[Deployment]:
                group = self.groups.get(deployment.name)
                return (deployment,) if group is None else group.members

            def changed(deployment: Deployment, change: Change) -> None:
                self.changes.breaker(deployment, change, members(deployment))

            self.failover = FailoverPolicy(self.engine, members, **{"on_change": changed, **options})
        return self.failover

    def set_outside(self, loads: Mapping[str, float]) -> None:
        """Tell the load that other processes or the servers themselves know of, by id, in requests."""
        outside.set_loads(self.engine, loads)

    def explain(self, model: str, *, exclude: Collection[str] = (), tokens: float = 0) -> dict[str, Any]:
        """Say for each deployment of a model whether it would be picked now, and why not.

        Args:
            model: The model name.
            exclude: Ids that the request must not use.
            tokens: Its prompt tokens.

        Returns:
            Ready for JSON: `strategy`, how many are `eligible`, and `deployments` with `model`, `server`, `id`,
            `eligible`, `why` (every reason against it) and `compared` (the numbers that the strategy goes by).

        Raises:
            UnknownModelError: No deployment has that model name.
        """
        return explain(self, model, exclude=exclude, tokens=tokens)

    # -- numbers ---------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Live numbers, ready for JSON: per model, per deployment; seconds, counts, requests.

        With an experiment also `experiment`: both arms side by side, as `fast_router.status()` shows them.
        """
        found = snapshot(self)
        return found if self.experiment is None else {**found, "experiment": self.experiment.report()}

    def __repr__(self) -> str:
        return f"<AdvancedRouter {self.strategy}: {len(self.deployments)} deployments, {len(self.groups)} models>"


def _check_options(strategy: str, options: Mapping[str, Any], model_list: Sequence[Mapping[str, Any]]) -> None:
    if not options:
        return
    others = [accepts(spec.strategy) for spec in read_list(model_list) if spec.strategy is not None]
    known = frozenset().union(*(names for names in others if names is not None))
    own = accepts(strategy) or frozenset()
    if None not in others:
        left = {name: value for name, value in options.items() if name in own or name not in known}
        check_options(strategy, left, *_ARGUMENTS, *known)


class LeaseContext:
    """The block form of a lease; made by `AdvancedRouter.lease`."""

    __slots__ = ("_ask", "_lease", "_model", "_router")

    def __init__(self, router: AdvancedRouter, model: str, ask: dict[str, Any]) -> None:
        self._router = router
        self._model = model
        self._ask = ask
        self._lease: Lease | None = None

    def __enter__(self) -> Lease:
        self._lease = self._router.acquire(self._model, **self._ask)
        return self._lease

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            # Only an Exception is the deployment's failure: a cancelled task or Ctrl-C says nothing about it.
            cancelled = error is not None and not isinstance(error, Exception)
            lease.release(None if cancelled else error, cancelled=cancelled)

    async def __aenter__(self) -> Lease:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)
