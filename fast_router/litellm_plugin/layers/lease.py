"""One attempt: what happens between a pick and the end of the call that was made with it.

Every endpoint of LiteLLM, synchronous or not, makes each of its attempts through `Router.make_call`. That is where
an `Attempt` begins and, unless it streams, where it ends; a stream takes it along until it is read to its end,
closed or dropped. A pick made inside finds the attempt in a ContextVar and leaves its lease there. Picks outside
any attempt (a proxy asking for a deployment to connect to by itself) take no lease.

Failover hooks in here: `ledger` holds what one request has tried, `on_end` hears how each attempt ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from fast_router.engine.failover.blame import FOREIGN, Terms
from fast_router.engine.failover.failures import ENDED
from fast_router.litellm_plugin.layers.stream_end import driving, follow, install_usage, streams
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine import Deployment, Lease
    from fast_router.engine.failover.blame import Case
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.layers.beside import Beside
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = [
    "Attempt", "Ledger", "answered", "cached_of", "current", "failed", "install", "is_cache_hit", "ledger", "on_end",
    "usage_of",
]  # fmt: skip


class Ledger(Protocol):
    """What one request has tried, over all its attempts; `engine.ledger.AttemptLedger` is one."""

    @property
    def tried(self) -> Collection[str]:
        """Ids that the next pick should avoid; empty for a request that has not failed yet."""

    @property
    def terms(self) -> int:
        """What the caller chose in place of the deployment's own, as `engine.failover.blame.Terms`."""

    @property
    def case(self) -> Case:
        """What the request has to say about the deployments that it fails at."""

    def narrow(self, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Keep the best candidates for the next attempt; never empty if they are not."""


ledger: ContextVar[Ledger | None] = ContextVar("fast_router_ledger", default=None)
"""The ledger of the request that is running; set it around the retries of one request."""

on_end: list[Callable[[Attempt, BaseException | None, bool], None]] = []
"""Called at the end of each attempt that had a lease: (attempt, error, cancelled)."""


class Attempt:
    """One call of `Router.make_call`.

    Attributes:
        model: The model name as the call has it.
        ledger: What this request has tried before.
        lease: The lease of its pick, None before the pick.
        more: Further leases, of a call that picks more than once.
        beside: What may start a second attempt beside it, None for nothing.
        foreign: Whether the caller asks with a key or at an address of its own: nothing is learnt from it.
        fresh: True while the pick may take the shortest way: none made yet, nothing tried before, nothing foreign.
        open: False once it has ended; a task that outlives the call must not lease into it.
        completion_tokens: Tokens of the answer, for `on_end`; not set before.
    """

    __slots__ = (
        "__weakref__", "beside", "completion_tokens", "foreign", "fresh", "lease", "ledger", "model", "more", "open",
    )  # fmt: skip

    def __init__(self, model: Any, tried: Ledger | None) -> None:
        self.model = model
        self.ledger = tried
        self.lease: Lease | None = None
        self.beside: Beside | None = None
        self.more: list[Lease] | None = None
        self.open = True
        self.foreign = tried is not None and tried.terms & FOREIGN != 0
        self.fresh = tried is None or not (tried.tried or self.foreign)

    def take(self, lease: Lease) -> None:
        """Let `lease` end with this attempt."""
        if self.foreign and self.ledger is not None:
            lease.disown(elsewhere=self.ledger.terms & Terms.ENDPOINT != 0)
        if not self.open:
            lease.release(cancelled=True)
        elif self.lease is None:
            self.lease = lease
            self.fresh = False
            lease.deployment.attempts.add(self)
        elif self.more is None:
            self.more = [lease]
        else:
            self.more.append(lease)

    def end(
        self,
        error: BaseException | None = None,
        *,
        completion_tokens: float = 0,
        total_tokens: float = 0,
        cancelled: bool = False,
        observe: bool = True,
        prompt_tokens: float = 0,
        cached_tokens: float | None = None,
    ) -> bool:
        """Release what it holds; only the first call counts, and says True."""
        if not self.open:
            return False
        self.open = False
        self.fresh = False
        self.beside = None
        lease = self.lease
        if lease is None:
            return True
        lease.deployment.attempts.discard(self)
        if error is not None and not isinstance(error, Exception):
            # The caller went away (a cancelled task, Ctrl-C): that says nothing about the deployment.
            error, cancelled = None, True
        if error is not None:
            if self.ledger is not None:
                lease.case = self.ledger.case
            # Whatever it is found in from now on is a later attempt's.
            getattr(error, "__dict__", {})[ENDED] = True
        elif self.foreign:
            completion_tokens = total_tokens = 0
            cancelled, observe = True, False
        lease._engine.release(
            lease, error, completion_tokens, total_tokens, cancelled, observe, prompt_tokens, cached_tokens
        )
        if self.more is not None:
            for further in self.more:
                further.release(error, cancelled=cancelled, observe=False)
        self.completion_tokens = completion_tokens
        for hook in on_end:
            hook(self, error, cancelled)
        return True

    def abandon(self) -> None:
        """End it from a finaliser, where no lock may be taken."""
        if self.open:
            self.open = False
            for lease in (self.lease, *(self.more or ())):
                if lease is not None:
                    lease.deployment.attempts.discard(self)
                    lease.abandon()


current: ContextVar[Attempt | None] = ContextVar("fast_router_attempt", default=None)
"""The attempt that is running in this context."""


def usage_of(response: Any) -> tuple[float, float]:
    """(completion tokens, total tokens) of an answer, 0 where it does not say.

    Chat, text and embedding answers count prompt and completion tokens; Responses and Anthropic messages
    input and output tokens, the latter in plain dicts.
    """
    usage = _usage(response)
    if usage is None:
        return 0.0, 0.0
    completion = _number(usage, "completion_tokens") or _number(usage, "output_tokens")
    prompt = _number(usage, "prompt_tokens") or _number(usage, "input_tokens")
    return completion, _number(usage, "total_tokens") or completion + prompt


def cached_of(response: Any) -> tuple[float, float | None]:
    """(prompt tokens, those of them that the server had cached) of an answer; 0 and None where it does not say.

    Chat answers say so in `prompt_tokens_details`, Responses in `input_tokens_details`.
    """
    usage = _usage(response)
    if usage is None:
        return 0.0, None
    prompt = _number(usage, "prompt_tokens") or _number(usage, "input_tokens")
    for word in ("prompt_tokens_details", "input_tokens_details"):
        details = usage.get(word) if isinstance(usage, dict) else getattr(usage, word, None)
        value = details.get("cached_tokens") if isinstance(details, dict) else getattr(details, "cached_tokens", None)
        if isinstance(value, (int, float)):
            return prompt, float(value)
    return prompt, None


def _usage(response: Any) -> Any:
    if isinstance(response, dict):
        return response.get("usage")
    # LiteLLM keeps it among a model's extra values, where pydantic's own look-up comes last.
    extra = getattr(response, "__pydantic_extra__", None)
    usage = extra.get("usage") if extra else None
    return getattr(response, "usage", None) if usage is None else usage


def _number(usage: Any, key: str) -> float:
    value = usage.get(key) if isinstance(usage, dict) else getattr(usage, key, None)
    return float(value) if isinstance(value, (int, float)) else 0.0


def is_cache_hit(response: Any) -> bool:
    """Tell whether an answer comes from LiteLLM's own cache."""
    private = getattr(response, "__pydantic_private__", None)
    hidden = private.get("_hidden_params") if private else getattr(response, "_hidden_params", None)
    return isinstance(hidden, dict) and hidden.get("cache_hit") is True


def answered(attempt: Attempt, response: Any) -> Any:
    """End the attempt, or hand it to the stream; returns what the caller gets."""
    if attempt.lease is None:
        attempt.end()
        return response
    try:
        if is_cache_hit(response):
            # Nobody was asked: it says nothing about the deployment, neither its speed nor its health.
            attempt.end(cancelled=True)
        elif streams(type(response)):  # type: ignore[arg-type]  # a class is hashable
            response = follow(response, attempt)
        else:
            completion, total = usage_of(response)
            if attempt.lease.deployment.work is None:
                attempt.end(completion_tokens=completion, total_tokens=total)
            else:
                prompt, cached = cached_of(response)
                attempt.end(
                    completion_tokens=completion, total_tokens=total, prompt_tokens=prompt, cached_tokens=cached
                )
    except Exception as error:  # noqa: BLE001 - the answer is there: it must reach the caller
        tally.failed(error, "the end of an attempt")
        attempt.end(cancelled=True)
    return response


def _make_call(original: Any) -> Any:
    async def make_call(self: Any, original_function: Any, *args: Any, **kwargs: Any) -> Any:
        attempt = Attempt(kwargs.get("model"), ledger.get())
        outer = current.get()
        current.set(attempt)
        try:
            response = await original(self, original_function, *args, **kwargs)
        except BaseException as error:
            failed(attempt, error)
            raise
        finally:
            current.set(outer)
        return answered(attempt, response)

    return make_call


def failed(attempt: Attempt, error: BaseException) -> None:
    """End an attempt that raised; never raises itself."""
    try:
        attempt.end(error)
    except Exception as ours:  # noqa: BLE001 - LiteLLM's error is the one to raise
        tally.failed(ours, "the end of an attempt")


def _common_utils(original: Any, mid_stream: type[BaseException]) -> Any:
    async def async_function_with_fallbacks_common_utils(self: Any, *args: Any, **kwargs: Any) -> Any:
        watch = driving.get()
        if watch is not None:
            error = kwargs.get("e", args[0] if args else None)
            if isinstance(error, mid_stream):
                # The stream goes on at another deployment: the one that broke has no call in flight any more.
                watch.broken(getattr(error, "original_exception", None) or error)
        return await original(self, *args, **kwargs)

    return async_function_with_fallbacks_common_utils


def install(patches: PatchSet, band: Band) -> list[str]:
    """Follow every attempt of every Router."""
    patches.replace(band.core, band.slot("make_call"), _make_call)
    name = "async_function_with_fallbacks_common_utils"
    if band.has(name):
        from litellm.exceptions import MidStreamFallbackError  # noqa: PLC0415

        patches.replace(band.core, band.slot(name), lambda original: _common_utils(original, MidStreamFallbackError))
    install_usage(patches)
    return ["attempts"]
