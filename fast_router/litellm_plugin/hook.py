"""On, off, and what is on: the plugin's switch.

`install_hook` is called by `import fast_router`. It costs next to nothing: LiteLLM is patched when somebody
imports it, or at once if that has happened. wrapt, which watches for the import and knows how to patch, is itself
loaded only then, since it takes longer to import than we do.
"""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.router import AdvancedRouter

__all__ = ["advanced_router", "check_settings", "disable", "enable", "install_hook", "invalidate", "status"]

_WATCHED = "litellm.router"
_OFF = frozenset({"0", "false", "no", "off", "f", "n"})

FEATURES = (
    ("attempts", "fast_router.litellm_plugin.layers.lease"),
    ("selection", "fast_router.litellm_plugin.picks.lanes"),
    ("cooldowns", "fast_router.litellm_plugin.rests.mirror"),
    ("strategies", "fast_router.litellm_plugin.picks.strategies_by_name"),
    ("failover", "fast_router.litellm_plugin.layers.failures"),
    ("admission", "fast_router.litellm_plugin.layers.quality_limits"),
    ("bookkeeping", "fast_router.litellm_plugin.overhead"),
    ("model_list", "fast_router.litellm_plugin.model_list.calls"),
    ("process_status", "fast_router.observe.process_status"),
    ("shared_state", "fast_router.litellm_plugin.fleet.shared_state"),
    ("celery_routing", "fast_router.litellm_plugin.layers.routing_worker_gate"),
)
"""What `enable` installs, in this order: a name, and a module with `install(patches, band)`."""

RUST_FEATURES = (
    ("selection", "fast_router.litellm_plugin.bands.rust.steps"),
    ("strategies", "fast_router.litellm_plugin.bands.rust.strategies_by_name"),
    ("model_list", "fast_router.litellm_plugin.model_list.calls"),
    ("process_status", "fast_router.observe.process_status"),
)
"""The same for a LiteLLM whose core is not written in Python: cooldowns and failover stay the core's."""


class _Switch:
    """The state behind the functions of this module."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.wanted = False
        self.watching = False
        self.enabled = False
        self.band: Band | None = None
        self.patches: PatchSet | None = None
        self.features: list[str] = []
        self.skipped: dict[str, str] = {}
        self.stuck: list[str] = []
        self.warned = False


_switch = _Switch()


def _off_by_environment() -> bool:
    return os.environ.get("FAST_ROUTER_ENABLED", "").strip().lower() in _OFF


def _allowed() -> bool:
    """Whether the settings let LiteLLM be touched; programs that set nothing do not load what reads settings."""
    if _off_by_environment():
        return False
    if "fast_router.settings" not in sys.modules and not any(name.startswith("FAST_ROUTER_") for name in os.environ):
        return True
    from fast_router import settings  # noqa: PLC0415

    return settings.configure().enabled  # read anew: the environment may have changed since


def install_hook() -> None:
    """Have LiteLLM patched as soon as it is imported; nothing at all with `FAST_ROUTER_ENABLED=0`.

    Raises:
        ConfigurationError: A setting is wrong; LiteLLM is left as it is then. Not in the `fast-router` command, which
            must get as far as its own way of telling errors.
    """
    try:
        enable()
    except ValueError:
        if not _in_our_command():
            raise


def _in_our_command() -> bool:
    """Whether this program is `fast-router` or `python -m fast_router.cli`, as Python was started."""
    program = os.path.basename((getattr(sys, "argv", None) or [""])[0])  # noqa: PTH119 - pathlib costs an import
    if program.partition(".")[0].removesuffix("-script") == "fast-router":
        return True
    return ("-m", "fast_router.cli") in pairwise(sys.orig_argv)


def check_settings() -> None:
    """Say what is wrong with the settings, as `import fast_router` does in any other program.

    Raises:
        ConfigurationError: A setting is wrong, and fast_router is not switched off.
    """
    if not _off_by_environment():
        from fast_router import settings  # noqa: PLC0415

        settings.load()


def enable() -> bool:
    """Let every `litellm.Router` of this process pick through fast_router.

    Existing Routers and new ones alike. Calling it again changes nothing. If LiteLLM is not imported yet, it
    takes effect when it is.

    Returns:
        True if LiteLLM is patched now; False if it is not imported yet, cannot be patched (see `status`), or
        a setting (`FAST_ROUTER_ENABLED=0`) forbids it.

    Raises:
        ConfigurationError: A setting is wrong; nothing has changed then.
    """
    with _switch.lock:
        if not _allowed():
            return False
        _switch.wanted = True
        if _switch.enabled:
            return True
        module = sys.modules.get(_WATCHED)
        if module is not None and hasattr(module, "Router"):
            _patch(module)
            return _switch.enabled
        _watch()
        return False


def disable() -> list[str]:
    """Give LiteLLM back: every patched attribute is again the identical object that it was.

    Returns:
        Attributes that somebody else has patched over since, so that they could not be put back; ours only
        forwards there from now on. Empty in the normal case.
    """
    with _switch.lock:
        _switch.wanted = False
        if _switch.patches is not None:
            _switch.stuck = _switch.patches.restore()
        _switch.enabled = False
        _switch.patches = None
        _switch.features = []
        return list(_switch.stuck)


class _Trigger:
    """A path finder with nothing of its own to find: it hears that LiteLLM is about to be imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "litellm":
            return None
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        # The package, not litellm.router: that one is imported half-way through the package, when many of the
        # functions that features replace are not there yet.
        _watch_with_wrapt("litellm")
        # wrapt put its finder first, where this search has been already.
        found = (finder.find_spec(name, path, target) for finder in tuple(sys.meta_path))
        return next((spec for spec in found if spec is not None), None)


def _watch() -> None:
    if _switch.watching:
        return
    _switch.watching = True
    if "litellm" in sys.modules:
        _watch_with_wrapt()
    else:
        sys.meta_path.insert(0, _Trigger())


def _watch_with_wrapt(name: str = _WATCHED) -> None:
    import wrapt  # noqa: PLC0415

    wrapt.register_post_import_hook(_imported, name)


def _imported(_module: ModuleType) -> None:
    module = sys.modules.get(_WATCHED)
    if module is None:
        _watch_with_wrapt()
        return
    with _switch.lock:
        if not _switch.wanted or _switch.enabled:
            return
        try:
            if _allowed():
                _patch(module)
        except Exception as error:  # noqa: BLE001 - importing LiteLLM must not fail because of us
            # The settings were right when fast_router was imported: they have changed since.
            from fast_router.litellm_plugin.tally import LOGGER  # noqa: PLC0415

            LOGGER.error("fast_router: not enabled: %s", error)


def _patch(module: ModuleType) -> None:
    from fast_router import settings  # noqa: PLC0415
    from fast_router.litellm_plugin.bands.methods import UnknownBandError, find_band  # noqa: PLC0415
    from fast_router.litellm_plugin.patching import PatchSet  # noqa: PLC0415
    from fast_router.litellm_plugin.start_line import install as install_start_line  # noqa: PLC0415
    from fast_router.litellm_plugin.tally import tally  # noqa: PLC0415
    from fast_router.settings.log_level import prepare  # noqa: PLC0415

    prepare()
    patches = PatchSet()
    _switch.features, _switch.skipped, _switch.stuck = [], {}, []
    try:
        _switch.band = find_band(module)
    except UnknownBandError as error:
        _switch.band = None
        _install("public hook", _public_hook(str(error)), patches, None)
    except Exception as error:  # noqa: BLE001 - importing LiteLLM must not fail because of us
        tally.failed(error, "enable")
        return
    else:
        disabled = settings.current().disabled_features
        for name, path in FEATURES if _switch.band.no_fast_lane is None else RUST_FEATURES:
            if name in disabled:
                _switch.skipped[name] = "switched off by disabled_features"
            else:
                _install(name, _installer(path), patches, _switch.band)
        install_start_line(patches, _switch.band)
    _switch.patches = patches
    _switch.enabled = bool(_switch.features)
    _warn_of_unknown_variables()


def _warn_of_unknown_variables() -> None:
    """Say once a process which variables look like options and are none: a typo would go unnoticed otherwise."""
    if _switch.warned:
        return
    _switch.warned = True
    from fast_router import settings  # noqa: PLC0415
    from fast_router.litellm_plugin.tally import LOGGER  # noqa: PLC0415

    if wrong := settings.unknown_variables():
        LOGGER.warning("fast_router: %s", "; ".join(wrong))


def _installer(path: str) -> Callable[[PatchSet, Any], list[str]]:
    def install(patches: PatchSet, band: Any) -> list[str]:
        module = import_module(path)
        done: list[str] = module.install(patches, band)
        return done

    return install


def _public_hook(problem: str) -> Callable[[PatchSet, Any], list[str]]:
    def install(patches: PatchSet, _band: Any) -> list[str]:
        from fast_router.litellm_plugin.bands import unknown as public_hook  # noqa: PLC0415

        return public_hook.install(patches, problem)

    return install


def _install(name: str, install: Callable[[PatchSet, Any], list[str]], patches: PatchSet, band: Any) -> None:
    from fast_router.litellm_plugin.tally import tally  # noqa: PLC0415

    mark = patches.mark()
    try:
        done = install(patches, band)
    except ModuleNotFoundError as error:
        patches.rewind(mark)
        _switch.skipped[name] = f"not installed: no module {error.name!r}"
    except Exception as error:  # noqa: BLE001 - a feature that fails leaves LiteLLM as it is
        patches.rewind(mark)
        _switch.skipped[name] = f"{type(error).__name__} while installing"
        tally.failed(error, f"installing {name}")
    else:
        _switch.features.extend(done)


def status() -> dict[str, Any]:
    """What is on, what is patched, who picked, ready for JSON; no key, header or prompt in it.

    `picks` counts `fast` (answered from a compiled plan), `filtered` (LiteLLM's filters ran, we chose among
    what they left) and `delegated` (LiteLLM chose), the last two by reason. `shared_state` lists the Routers that
    share their state over Redis: who else is there, and whether Redis answers (or that `limits: strict` has none).
    `resting` lists the deployments that rest or have yet to prove that they are back: model, id, state, reason,
    seconds_left. `celery` is there while Celery routing is on: whether broker and Redis answer, `picks` by workers,
    `local_picks` by reason. `capabilities` says of each whether it is on, and why or why not.
    """
    from fast_router.litellm_plugin.capabilities import capabilities  # noqa: PLC0415
    from fast_router.litellm_plugin.tally import resting, tally  # noqa: PLC0415

    with _switch.lock:
        band = _switch.band
        patched = _switch.patches.patched if _switch.patches is not None else []
        late = sorted(_switch.patches.late) if _switch.patches is not None else []
        skipped = dict(_switch.skipped)
        if band is not None and _switch.enabled and not band.fast_lane:
            unknown = f"the routing code of LiteLLM {band.version} is not one that was checked against"
            skipped["fast lane"] = band.no_fast_lane or unknown
        features = [*_switch.features, *late]
        return {
            "version": _version(),
            "enabled": _switch.enabled,
            "switched_off_by_environment": _off_by_environment(),
            "waiting_for_litellm": _switch.wanted and not _switch.enabled and _WATCHED not in sys.modules,
            "litellm": band.version if band is not None else None,
            "band": band.name if band is not None else None,
            "patched": patched,
            "patched_over": list(_switch.stuck),
            "features": features,
            "skipped": skipped,
            "capabilities": capabilities(band, features, skipped, _why_off()),
            **tally.report(),
            "shared_state": _shared_state(),
            "resting": resting(),
            **_celery(),
        }


def _why_off() -> str:
    if _off_by_environment():
        return "FAST_ROUTER_ENABLED switches fast_router off"
    if not _switch.enabled and _WATCHED not in sys.modules:
        return "LiteLLM is not imported yet"
    return "" if _switch.enabled else "fast_router is off"


def _shared_state() -> list[dict[str, Any]]:
    # Not imported for the sake of a report: who shares state has it loaded.
    cluster = sys.modules.get("fast_router.cluster")
    return cluster.statuses() if cluster is not None else []


def _celery() -> dict[str, Any]:
    process = sys.modules.get("fast_router.celery_routing.process")
    found = process.status() if process is not None else None
    return {} if found is None else {"celery": found}


def _version() -> str:
    import fast_router  # noqa: PLC0415

    return fast_router.__version__


def invalidate(router: Any) -> None:
    """Have everything that was compiled for `router` compiled anew at its next pick.

    Needed only after editing a deployment's dict in place; every other change is noticed.
    """
    from fast_router.litellm_plugin.picks.binding import existing  # noqa: PLC0415

    if _switch.band is not None:
        binding = existing(_switch.band.core_of(router))
        if binding is not None:
            binding.invalidate()


def advanced_router(router: Any) -> AdvancedRouter:
    """The `AdvancedRouter` that picks for a `litellm.Router`: for its stats, to rest or wake a deployment.

    Raises:
        RuntimeError: The plugin is not enabled, or this LiteLLM is an unknown one.
        TypeError: `router` is not a `litellm.Router`.
    """
    band = _switch.band
    if not _switch.enabled or band is None:
        msg = "fast_router is not enabled for this LiteLLM: see fast_router.status()"
        raise RuntimeError(msg)
    core = band.core_of(router) if isinstance(router, (band.router, band.core)) else None
    if core is None:
        msg = f"advanced_router() takes a litellm.Router, not {type(router).__name__}"
        raise TypeError(msg)
    binding = band.binding(core)
    binding.compile_all(core)
    return binding.router
