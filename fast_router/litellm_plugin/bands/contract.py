"""What a layer, a pick or a feature may know of LiteLLM.

Each range of LiteLLM's versions that has its seams at the same places is a band, and has an adapter: `methods` for
1.83 to 1.109, `rust` for 1.110 and for what follows it (there a self-test decides), `unknown` where members are
missing. An adapter says which seams it has; features and capabilities declare the ones that they need (`feature_table`,
`overhead`), and are left out with a reason where a band lacks one.
Versions, LiteLLM's spellings and whether it has a member are an adapter's affair: a test keeps it so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["Keeper", "Layer", "LiteLLM", "Outer", "Seam"]

Layer = Callable[[Any], Any]
"""Makes a replacement that is called as the original is, with the same arguments."""

Outer = Callable[[Any, Any], Any]
"""The same, from LiteLLM's own method and from what stands in its place now."""


class Seam(Enum):
    """A place in LiteLLM where something of ours can stand; the value names it for an operator."""

    REQUEST = "a place around a whole request"
    ATTEMPT = "a place around each attempt"
    PICK = "a pick that can be answered in its place"
    AWAITED_PICK = "a pick that waits for another process's answer"
    CHOICE = "the choice among the candidates that its filters leave"
    CHANGES = "word of each change of a Router's deployments"
    REST_STORE = "a store of its cooldowns"
    RETRY_TIMING = "the time before a retry"
    STRATEGY_NAMES = "a place where strategies have names"
    STREAM_RECOVERY = "a place where a broken stream goes on"
    WALK = "a walk that a whole request can be taken past"
    MEMBERS = "the Router's own members, written in Python"
    REGISTRY = "the registry of a core that is not written in Python"
    FILTER = "a public hook that filters candidates"


class Keeper(Protocol):
    """How the Routers of a band are bound, and where their deployments rest; the floors above give it to the band."""

    def binding(self, core: Any) -> Any:
        """The binding (`picks.binding.Binding`) of a core, made now if it has none."""

    def new_binding(self, core: Any) -> Any:
        """A binding for a core that has none, which hears of every change and rest from now on."""

    def rest_store(self, core: Any) -> Any:
        """Where a core's cooldowns are kept (`rests.store.RestStore`), None if it has no such place."""

    def take_over_rests(self, core: Any) -> None:
        """Have everybody rest in our engine who cools down in LiteLLM's store."""

    def admit_picks(self, patches: PatchSet, install: Callable[[PatchSet], object]) -> None:
        """Have every asynchronous pick admitted by the fleet: `install` puts that into the stack around picks."""

    def ask_workers(self, patches: PatchSet, install: Callable[[PatchSet], object]) -> None:
        """Have a routing worker asked before every pick: `install` puts that into the stack around picks."""

    def write_behind(self, core: Any) -> None:
        """Have a core's own stores leave to us what they would send to Redis, for as long as it is written behind."""

    def write_themselves(self) -> None:
        """Have all cores' stores write themselves again."""

    def heed_holds(self, patches: PatchSet, alone: Callable[[], bool]) -> None:
        """Have LiteLLM's own picks leave alone whom an operator holds, where what does so is ours: if `alone()`."""

    def shuffle_alone(self, patches: PatchSet, alone: Callable[[], bool]) -> None:
        """Have LiteLLM's own picks go by its shuffle where the strategy is one that only we have: if `alone()`."""


class LiteLLM(Protocol):
    """One LiteLLM as the plugin sees it: what every adapter answers.

    Attributes:
        name: The range of versions with the same seams.
        version: LiteLLM's own version.
        module: Where the core class and the functions that it calls live.
        core: The class whose instances route.
        router: `litellm.Router`.
        facade: True if a Router is only a facade over its core.
        seams: The places where something of ours can stand.
        installers: The module that installs a feature in this band, where that is one of its own.
        within: Features that come with another one's installer.
        core_walks: Whether a core goes from step to step by itself, and picks in the course of it.
        has_cooldown_cache: Whether cooldowns are read and written by way of LiteLLM's `CooldownCache`.
        keeper: How its Routers are bound.
    """

    name: str
    version: str
    module: ModuleType
    core: type
    router: type
    facade: bool
    seams: frozenset[Seam]
    installers: Mapping[str, str]
    within: Mapping[str, str]
    core_walks: bool
    has_cooldown_cache: bool
    keeper: Keeper

    def lacks(self, seam: Seam) -> str:
        """Why there is no such seam, in words; empty if there is one."""

    def installed(self, patches: PatchSet, give_back: Callable[[Any, str], None]) -> None:
        """Everything is installed; `give_back(band, why)` takes it out again where LiteLLM proves to be another one."""

    # -- layers ---------------------------------------------------------------------------------------

    def around_request(self, patches: PatchSet, make: Layer, make_sync: Layer) -> None:
        """Put a layer around each request, its retries and fallbacks included.

        A request passes either the asynchronous one or its synchronous twin; a fallback may pass it once more, inside.

        Args:
            patches: Those of this `enable()`.
            make: Makes the replacement of an asynchronous method of the core from the original.
            make_sync: The same where a synchronous request does not come by there.
        """

    def around_attempt(self, patches: PatchSet, make: Layer, make_sync: Layer) -> None:
        """Put a layer around each attempt, from before its pick or its call to the answer or a stream's beginning.

        Args:
            patches: Those of this `enable()`.
            make: Makes the replacement of an asynchronous method from the original.
            make_sync: The same where a synchronous attempt does not come by there.
        """

    def around_whole_request(self, patches: PatchSet, make: Layer, make_sync: Layer) -> None:
        """Put a layer around each request where its caller makes it, outside of everything else."""

    def around_picks(self, patches: PatchSet, make: Outer, make_sync: Outer) -> None:
        """Put a layer around each pick that is a method's, outside of everything else."""

    def around_own_attempts(self, patches: PatchSet, make: Layer, make_sync: Layer) -> None:
        """Put a layer around each attempt, outside of everything else."""

    # -- members, by their plain names ----------------------------------------------------------------

    def slot(self, name: str) -> str:
        """The real name of a member of the core class."""

    def spellings(self, name: str) -> tuple[str, ...]:
        """Every name under which a member of a core may be assigned."""

    def has(self, name: str) -> bool:
        """Whether the core class has that member."""

    def attribute(self, core: Any, *names: str) -> str | None:
        """The real name of the first of these attributes that the instance `core` has."""

    def read(self, core: Any, *names: str, default: Any = None) -> Any:
        """The value of the first of these attributes or settings of `core`, else `default`."""

    def busy(self, core: Any, model: str, ids: Sequence[str]) -> list[float]:
        """What LiteLLM's least-busy goes by, as this process knows it.

        Args:
            core: Whose picks.
            model: The group's name.
            ids: Of deployments.

        Returns:
            Calls per deployment, in the order of `ids`.
        """

    def call(self, core: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of `core` by its plain name."""

    # -- Routers --------------------------------------------------------------------------------------

    def core_of(self, router: Any) -> Any:
        """The object that routes for `router`."""

    # -- the pipeline that a fast pick stands in for --------------------------------------------------

    @property
    def fast_lane(self) -> bool:
        """Whether picks can be answered in place of this very pipeline."""

    @property
    def narrowing_keys(self) -> tuple[str, ...]:
        """The request keys by which its selection narrows candidates, and which it takes out, in order."""

    def order_is_strict(self) -> bool:
        """False if an order that no candidate has counts as none."""

    def stock_names(self) -> tuple[str, ...]:
        """The real names of the pipeline's methods."""
