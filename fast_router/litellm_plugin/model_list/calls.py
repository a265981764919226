"""`litellm.model_list = [deployments]` that routes: `litellm.completion(model="group")` and its relatives.

LiteLLM itself only reads names from `litellm.model_list`. With this feature, once somebody assigns deployments to
it, the call functions of the `litellm` package look a model up there first, and a model group's call goes through
the Router behind the list, with its picks, retries and fallbacks. Everything else is plain LiteLLM: names that are
not in the list, calls that say themselves where to go (api_base, api_key, a provider, …), and the calls that a
Router makes to the deployment it picked, which LiteLLM marks with `model_group` in the metadata.

While `litellm.model_list` is the stock list, all that is added to a call is one comparison.

Where the functions are reached. Since LiteLLM 1.106 chat, embeddings, messages and responses are dispatched through
module globals that are read at each call, so a `from litellm import completion` done earlier routes as well. Before,
and for the other functions, an import by name that was done before `import fast_router` keeps plain LiteLLM.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fast_router.errors import ConfigurationError
from fast_router.litellm_plugin.bands.member_names import offers
from fast_router.litellm_plugin.model_list.implicit_router import ImplicitRouter, is_deployments
from fast_router.litellm_plugin.model_list.sync_stream import SyncStream

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["implicit_router", "install"]

_log = logging.getLogger("fast_router")

# A call that names one of these says itself where it goes.
_EXPLICIT = ("api_base", "base_url", "api_key", "custom_llm_provider", "deployment_id", "model_list")
_METADATA = ("metadata", "litellm_metadata")
# Where `litellm.anthropic.messages.acreate` and `.create` take the two functions from, at each call.
_ANTHROPIC = "litellm.anthropic_interface.messages"
_ANTHROPIC_GLOBALS = {
    "anthropic_messages": "_async_anthropic_messages",
    "anthropic_messages_handler": "_sync_anthropic_messages",
}

# The functions of the litellm package, and the Router method that answers in each one's place. Where the Router
# has no method with retries for a sync function, it runs as a generic call (see `_generic`).
# A sync function's asynchronous twin is its name after an "a", and so is the flag by which that one runs it, but for:
_TWIN = {"anthropic_messages_handler": "aanthropic_messages"}
_FLAG = {"anthropic_messages_handler": "is_async"}
_FUNCTIONS: tuple[tuple[str, str | None], ...] = (
    ("acompletion", "acompletion"),
    ("aembedding", "aembedding"),
    ("aimage_edit", "aimage_edit"),
    ("aimage_generation", "aimage_generation"),
    ("amoderation", "amoderation"),
    ("anthropic_messages", "aanthropic_messages"),
    ("anthropic_messages_handler", None),
    ("arerank", "arerank"),
    ("aresponses", "aresponses"),
    ("aspeech", "aspeech"),
    ("atext_completion", "atext_completion"),
    ("atranscription", "atranscription"),
    ("completion", "completion"),
    ("embedding", "embedding"),
    ("image_edit", None),
    ("image_generation", None),
    ("moderation", None),
    ("rerank", None),
    ("responses", None),
    ("speech", None),
    ("text_completion", None),
    ("transcription", None),
)

_implicit = ImplicitRouter()
# What `litellm.model_list` was when we last saw that it is none of ours; None once switched off.
_plain: object = None
_active = False
_litellm: dict[str, Any] = {}


def implicit_router() -> Any:
    """The `litellm.Router` behind `litellm.model_list`; None if no deployments were assigned and used yet."""
    return _implicit.router


def install(patches: PatchSet, band: Band) -> list[str]:  # noqa: ARG001 - each seam is found by looking for it
    """Make the call functions of litellm look models up in `litellm.model_list`.

    Returns:
        The names of the features that are on.
    """
    global _active, _litellm  # noqa: PLW0603 - one litellm module, one list
    import litellm  # noqa: PLC0415

    _litellm = vars(litellm)
    replacements: dict[int, Any] = {}
    count = 0
    for name, method in _FUNCTIONS:
        for owner, attribute in _holders(name):
            original = vars(owner)[attribute]

            def make(original: Any, name: str = name, method: str | None = method) -> Any:
                if id(original) not in replacements:
                    replacements[id(original)] = _replacement(original, name, method)
                return replacements[id(original)]

            if id(original) in replacements or callable(original):
                patches.replace(owner, attribute, make)
                count += 1
    if not count:
        return []
    _active = True
    patches.on_restore(_uninstall)
    return ["model_list"]


def _uninstall() -> None:
    global _active, _plain  # noqa: PLW0603
    _active = False
    _plain = None
    _implicit.forget()


def _holders(name: str) -> list[tuple[Any, str]]:
    """The module attributes through which callers reach the Python function `name`."""
    interface = sys.modules.get(_ANTHROPIC)
    inside = _ANTHROPIC_GLOBALS.get(name, "")
    used = [(interface, inside)] if interface is not None and callable(vars(interface).get(inside)) else []
    public = _litellm.get(name)
    if public is None:
        return used
    home = sys.modules.get(getattr(public, "__module__", None) or "")
    dispatched = f"_PYTHON_{name.upper()}"
    if home is not None and callable(vars(home).get(dispatched)):
        # The dispatching function stays: whoever imported it by name reaches ours through this global.
        function = vars(home)[dispatched]
        found = [(home, dispatched)]
        home = sys.modules.get(getattr(function, "__module__", None) or "")
    else:
        function = public
        found = [(sys.modules["litellm"], name)]
    if home is not None and vars(home).get(name) is function:
        found.append((home, name))
    return found + used


def _replacement(original: Callable[..., Any], name: str, method: str | None) -> Callable[..., Any]:
    names, needed = _parameters(original, name)
    twin, flag = _TWIN.get(name, "a" + name), _FLAG.get(name, "a" + name)

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def routed_async(*args: Any, **kwargs: Any) -> Any:
            listed = _litellm.get("model_list")
            if listed is _plain or not _active:
                return await original(*args, **kwargs)
            call = _routed(listed, names, needed, args, kwargs)
            if name == "acompletion":
                each = _one_by_one_call(listed, names, call, args, kwargs)
                if each is not None:
                    return await _one_by_one("async_completion_with_fallbacks", each)
            if call is None:
                return await original(*args, **kwargs)
            return await getattr(_implicit.router, method or name)(**call)

        return routed_async

    @functools.wraps(original)
    def routed(*args: Any, **kwargs: Any) -> Any:
        listed = _litellm.get("model_list")
        # LiteLLM's async functions run their sync twin with a flag: what to do with that call is decided already.
        if listed is _plain or not _active or kwargs.get(flag):
            return original(*args, **kwargs)
        call = _routed(listed, names, needed, args, kwargs)
        if name == "completion":
            each = _one_by_one_call(listed, names, call, args, kwargs)
            if each is not None:
                return _one_by_one("completion_with_fallbacks", each)
        if call is None:
            return original(*args, **kwargs)
        router = _implicit.router
        # LiteLLM's sync messages reach some providers only, and their streams may be asynchronous ones.
        if method is None and name not in _TWIN and offers(router, "function_with_fallbacks"):
            return _generic(router, original, call)
        if method is None and not call.get("stream"):
            return _in_a_loop(getattr(router, twin), call)
        # A stream must be one that can be read without a loop.
        if method is None and not offers(router, name):
            return SyncStream(getattr(router, twin), call)
        return getattr(router, method or name)(**call)

    return routed


def _parameters(original: Callable[..., Any], name: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """The names of a function's parameters in order, and of those that carry what is asked for."""
    parameters = inspect.signature(original).parameters
    if "args" in parameters:
        # Some async functions hand everything on to their sync twin.
        twin = _litellm.get(name.removeprefix("a"))
        parameters = inspect.signature(twin).parameters if callable(twin) else parameters
    named = [one for one in parameters.values() if one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD}]
    needed = frozenset(one.name for one in named if one.default is one.empty or isinstance(one.default, list))
    return tuple(one.name for one in named), needed


def _routed(
    listed: Any, names: tuple[str, ...], needed: frozenset[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """The arguments for the Router, by name; None if the call is plain LiteLLM's.

    An argument that is None is one that was not given, as in a plain call: a Router would put it in the place of
    the deployment's own.

    Raises:
        ConfigurationError: `litellm.model_list` is malformed.
    """
    global _plain  # noqa: PLW0603
    try:
        given = {**dict(zip(names, args, strict=False)), **kwargs} if args else kwargs
        call = {key: value for key, value in given.items() if value is not None or key in needed}
        model = call.get("model")
        if not isinstance(model, str) or any(name in call for name in _EXPLICIT):
            return None
        for key in _METADATA:
            marks = call.get(key)
            if isinstance(marks, Mapping):
                if "model_group" in marks:
                    return None
                # The Router writes into it; callers use one dict for many calls.
                call[key] = dict(marks)
        if not is_deployments(listed):
            if listed:  # an empty list may be filled in place
                _plain = listed
            _implicit.forget()
            return None
        if not _implicit.serves(listed, model):
            return None
    except ConfigurationError:
        raise
    except Exception:  # noqa: BLE001 - an error of ours never fails a call
        _log.exception("litellm.model_list: fast_router failed to look up a model; the call goes on in plain LiteLLM")
        return None
    return call


def _one_by_one_call(
    listed: Any, names: tuple[str, ...], call: dict[str, Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """The arguments of a chat call whose models, the first and its fallbacks, are not all the Router's; else None."""
    if not kwargs.get("fallbacks"):
        return None
    if call is None:
        return _falling_into_the_list(listed, names, args, kwargs)
    return _falling_out_of_the_list(listed, call)


def _falling_into_the_list(
    listed: Any, names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """The arguments of a plain chat call one of whose fallbacks is a model group of the list; None for any other.

    LiteLLM calls each fallback with the arguments of the first model, its address and key included; those are of no
    use to a model group, whose deployments have their own.
    """
    fallbacks = kwargs.get("fallbacks")
    if not isinstance(fallbacks, list):
        return None
    nowhere = dict.fromkeys(_EXPLICIT)
    try:
        if not is_deployments(listed) or any("model_group" in (kwargs.get(key) or ()) for key in _METADATA):
            return None
        own = [isinstance(item, str) and _implicit.serves(listed, item) for item in fallbacks]
    except Exception:  # noqa: BLE001 - what is wrong here is LiteLLM's to say
        return None
    if not any(own):
        return None
    changed = [{**nowhere, "model": item} if ours else item for item, ours in zip(fallbacks, own, strict=True)]
    return {**dict(zip(names, args, strict=False)), **kwargs, "fallbacks": changed}


def _falling_out_of_the_list(listed: Any, call: dict[str, Any]) -> dict[str, Any] | None:
    """The call itself if it names fallback models that are not in the list, which the Router cannot call; else None."""
    fallbacks = call.get("fallbacks")
    if not isinstance(fallbacks, list):
        return None
    for item in fallbacks:
        # {"group": ["other"]} is the Router's own form.
        if isinstance(item, Mapping) and "model" not in item:
            return None
        wanted = item.get("model") if isinstance(item, Mapping) else item
        if isinstance(wanted, str) and not _implicit.serves(listed, wanted):
            return call
    return None


def _one_by_one(function: str, call: dict[str, Any]) -> Any:
    """LiteLLM's fallbacks outside a Router: it calls each model by name, and those of the list come back to us."""
    from litellm.litellm_core_utils import fallback_utils  # noqa: PLC0415

    # Copies: LiteLLM up to 1.83 takes the model out of the caller's dicts.
    fallbacks = [dict(item) if isinstance(item, Mapping) else item for item in call.pop("fallbacks")]
    return getattr(fallback_utils, function)(**call, kwargs={"fallbacks": fallbacks})


def _in_a_loop(function: Callable[..., Any], call: dict[str, Any]) -> Any:
    """A sync call that the Router of 1.110 retries in its asynchronous form only, run as LiteLLM runs its own."""
    from litellm.litellm_core_utils.asyncify import run_async_function  # noqa: PLC0415

    return run_async_function(function, **call)


def _generic(router: Any, original: Callable[..., Any], call: dict[str, Any]) -> Any:
    """A sync call for which the Router has no method with retries: its generic call, with retries and fallbacks."""
    router._update_kwargs_before_fallbacks(model=call["model"], kwargs=call, metadata_variable_name="litellm_metadata")

    def attempt(**kwargs: Any) -> Any:
        kwargs.pop("original_function", None)
        return router._generic_api_call_with_fallbacks(original_function=original, **kwargs)

    return router.function_with_fallbacks(original_function=attempt, **call)
