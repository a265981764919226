"""On, off, and what is on: the plugin's switch.

`install_hook` is called by `import fast_router`. It costs next to nothing: LiteLLM is patched when somebody
imports it, or at once if that has happened. wrapt, which watches for the import and knows how to patch, is itself
loaded only then, since it takes longer to import than we do.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fast_router import environment_switch, proxy_process
from fast_router.litellm_plugin.switch import WATCHED, switch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import ModuleType

    from fast_router.litellm_plugin.bands.contract import Keeper
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.router import AdvancedRouter

__all__ = ["advanced_router", "bind_all", "check_settings", "disable", "enable", "install_hook", "invalidate"]


def _allowed() -> bool:
    """Whether the settings let LiteLLM be touched; programs that set nothing do not load what reads settings."""
    if environment_switch.off():
        return False
    if "CONFIG_FILE_PATH" in os.environ or "WORKER_CONFIG" in os.environ:  # a worker of LiteLLM's proxy
        from fast_router.settings import proxy_file  # noqa: PLC0415

        proxy_file.adopt(os.environ)
    if "fast_router.settings" not in sys.modules and not any(name.startswith("FAST_ROUTER_") for name in os.environ):
        return True
    from fast_router import settings  # noqa: PLC0415

    return settings.configure().enabled  # read anew: the environment may have changed since


def install_hook() -> None:
    """Have LiteLLM patched as soon as it is imported; with `FAST_ROUTER_ENABLED=0` only strategy names are translated.

    Raises:
        ConfigurationError: A setting is wrong; LiteLLM is left as it is then. Not in the `fast-router` command, which
            must get as far as its own way of telling errors, nor in a proxy that starts, which ends by one line.
    """
    try:
        enable()
    except ValueError as error:
        if not _in_our_command():
            proxy_process.end(error)
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
    if not environment_switch.off():
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
    with switch.lock:
        if not _allowed():
            _translate_names()
            return False
        switch.wanted = switch.names_wanted = True
        if switch.enabled:
            return True
        module = sys.modules.get(WATCHED)
        if module is not None and hasattr(module, "Router"):
            _patch(module)
            return switch.enabled
        _watch()
        return False


def disable(*, names: bool = False) -> list[str]:
    """Give LiteLLM back: every patched attribute is again the identical object that it was.

    One thing stays, so that a configuration that names a strategy of ours still makes a Router: the translation of
    such names, in the Router's constructor and `update_settings`.

    Args:
        names: Whether that goes, too. A Router with such a name is refused by LiteLLM then.

    Returns:
        Attributes that somebody else has patched over since, so that they could not be put back; ours only
        forwards there from now on. Empty in the normal case.
    """
    with switch.lock:
        switch.wanted = False
        _leave_names()  # they stand around what is put back
        if switch.patches is not None:
            switch.stuck = switch.patches.restore()
        switch.enabled = False
        switch.patches = None
        switch.features = []
        switch.names_wanted = not names
        _translate_names()
        return list(switch.stuck)


def _translate_names() -> None:
    """While our strategies are off, let configurations that name them start; as soon as LiteLLM is there."""
    if switch.names is not None or not switch.names_wanted or environment_switch.forbids_names():
        return
    module = sys.modules.get(WATCHED)
    if module is None or not hasattr(module, "Router"):
        _watch()
        return
    from fast_router.litellm_plugin import names_while_off  # noqa: PLC0415
    from fast_router.litellm_plugin.patching import PatchSet  # noqa: PLC0415
    from fast_router.litellm_plugin.tally import tally  # noqa: PLC0415

    patches = PatchSet()
    try:
        names_while_off.install(patches, module)
    except Exception as error:  # noqa: BLE001 - off always starts
        patches.restore()
        tally.failed(error, "translating strategy names")
        return
    switch.names = patches


def _leave_names() -> None:
    if switch.names is not None:
        switch.names.restore()
        switch.names = None


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
    if switch.watching:
        return
    switch.watching = True
    if "litellm" in sys.modules:
        _watch_with_wrapt()
    else:
        sys.meta_path.insert(0, _Trigger())


def _watch_with_wrapt(name: str = WATCHED) -> None:
    import wrapt  # noqa: PLC0415

    wrapt.register_post_import_hook(_imported, name)


def _imported(_module: ModuleType) -> None:
    module = sys.modules.get(WATCHED)
    if module is None:
        _watch_with_wrapt()
        return
    with switch.lock:
        if switch.enabled:
            return
        try:
            if switch.wanted and _allowed():
                _patch(module)
        except Exception as error:  # noqa: BLE001 - importing LiteLLM must not fail because of us
            # The settings were right when fast_router was imported: they have changed since.
            from fast_router.litellm_plugin.tally import LOGGER  # noqa: PLC0415

            LOGGER.error("fast_router: not enabled: %s", error)
        if not switch.enabled:
            _translate_names()


def _keeper_of(band: Band) -> Keeper:
    """What the floors above a band know of how its Routers are bound."""
    if band.core_walks:
        from fast_router.litellm_plugin.bands.rust.band import RustBand  # noqa: PLC0415 - few have that core
        from fast_router.litellm_plugin.rust_core.keeper import RustKeeper  # noqa: PLC0415

        assert isinstance(band, RustBand)
        return RustKeeper(band)
    from fast_router.litellm_plugin.rests.keeper import MethodsKeeper  # noqa: PLC0415

    return MethodsKeeper(band)


def _patch(module: ModuleType) -> None:
    from fast_router import settings  # noqa: PLC0415
    from fast_router.litellm_plugin.bands.find import find_band  # noqa: PLC0415
    from fast_router.litellm_plugin.bands.methods import UnknownBandError  # noqa: PLC0415
    from fast_router.litellm_plugin.patching import PatchSet  # noqa: PLC0415
    from fast_router.litellm_plugin.rollout import install as install_rollout  # noqa: PLC0415
    from fast_router.litellm_plugin.start_line import install as install_start_line  # noqa: PLC0415
    from fast_router.litellm_plugin.tally import tally  # noqa: PLC0415
    from fast_router.settings.log_level import prepare  # noqa: PLC0415

    prepare()
    _leave_names()
    patches = PatchSet()
    switch.features, switch.skipped, switch.stuck = [], {}, []
    try:
        switch.band = band = find_band(module)
        band.keeper = _keeper_of(band)
    except UnknownBandError as error:
        switch.band = None
        switch.skipped.update(_none(str(error)))
        _install("public hook", _public_hook(str(error)), patches, None)
    except Exception as error:  # noqa: BLE001 - importing LiteLLM must not fail because of us
        tally.failed(error, "enable")
        _translate_names()
        return
    else:
        _install_features(patches, switch.band, settings.current().disabled_features)
        install_start_line(patches, switch.band)
        install_rollout(patches, switch.band)
        switch.band.installed(patches, give_back)
    _in_force(patches)
    _warn_of_unknown_variables()


def _in_force(patches: PatchSet) -> None:
    switch.patches = patches
    switch.enabled = bool(switch.features)
    if "strategies" not in switch.features:
        _translate_names()


def _install_features(patches: PatchSet, band: Band, disabled: Collection[str]) -> None:
    """Install what this LiteLLM has the seams for, and note of everything else why it is not there."""
    from fast_router.litellm_plugin.feature_table import FEATURES, PARTS  # noqa: PLC0415

    said = switch.skipped
    for feature in FEATURES:
        name = feature.name
        lacking = next((seam for seam in feature.needs if seam not in band.seams), None)
        if name in disabled:
            said[name] = _DISABLED
        elif lacking is not None:
            if feature.unless not in band.seams:
                said[name] = band.lacks(lacking)
        elif name not in band.within:
            _install(name, _installer(band.installers.get(name, feature.module)), patches, band)
    for name, host in band.within.items():
        if name not in switch.features and name not in said:
            if host in switch.features:
                switch.features.append(name)
            else:
                said[name] = said.get(host, f"comes with {host}, which is off")
    for name, (host, seam) in PARTS.items():
        if name not in switch.features:
            said[name] = _DISABLED if name in disabled else band.lacks(seam) or said.get(host, f"{host} has it off")


_DISABLED = "switched off by disabled_features"


def _none(problem: str) -> dict[str, str]:
    """Every feature with the one reason for which none is there."""
    from fast_router.litellm_plugin.feature_table import FEATURES  # noqa: PLC0415

    return dict.fromkeys((feature.name for feature in FEATURES), problem)


def give_back(band: Any, problem: str) -> None:
    """Give LiteLLM back but for its public hook, while requests run: its `band` has turned out to be another one.

    Args:
        band: The one that is in use; nothing happens if it is no longer.
        problem: What is the matter, for the log and the status.
    """
    from fast_router.litellm_plugin.patching import PatchSet  # noqa: PLC0415

    with switch.lock:
        if switch.band is not band or switch.patches is None:
            return
        _leave_names()
        switch.stuck = switch.patches.restore()
        patches = PatchSet()
        switch.band, switch.features, switch.skipped = None, [], {"steering": problem, **_none(problem)}
        _install("public hook", _public_hook(problem), patches, None)
        _in_force(patches)


def _warn_of_unknown_variables() -> None:
    """Say once a process which variables look like options and are none: a typo would go unnoticed otherwise."""
    if switch.warned:
        return
    switch.warned = True
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
        switch.skipped[name] = f"not installed: no module {error.name!r}"
    except Exception as error:  # noqa: BLE001 - a feature that fails leaves LiteLLM as it is
        patches.rewind(mark)
        switch.skipped[name] = f"{type(error).__name__} while installing"
        tally.failed(error, f"installing {name}")
    else:
        switch.features.extend(done)


def invalidate(router: Any) -> None:
    """Have everything that was compiled for `router` compiled anew at its next pick.

    Needed only after editing a deployment's dict in place; every other change is noticed.
    """
    from fast_router.litellm_plugin.picks.binding import existing  # noqa: PLC0415

    if switch.band is not None:
        binding = existing(switch.band.core_of(router))
        if binding is not None:
            binding.invalidate()


def bind_all() -> None:
    """Have each `litellm.Router` of the process shown, those that have not picked yet included."""
    from fast_router.litellm_plugin.start_line import routers  # noqa: PLC0415

    band = switch.band
    if switch.enabled and band is not None:
        for router in routers():
            core = band.core_of(router)
            if core is not None:
                band.keeper.binding(core)


def advanced_router(router: Any) -> AdvancedRouter:
    """The `AdvancedRouter` that picks for a `litellm.Router`: for its stats, to rest or wake a deployment.

    Raises:
        RuntimeError: The plugin is not enabled, or this LiteLLM is an unknown one.
        TypeError: `router` is not a `litellm.Router`.
    """
    band = switch.band
    if not switch.enabled or band is None:
        msg = "fast_router is not enabled for this LiteLLM: see fast_router.status()"
        raise RuntimeError(msg)
    core = band.core_of(router) if isinstance(router, (band.router, band.core)) else None
    if core is None:
        msg = f"advanced_router() takes a litellm.Router, not {type(router).__name__}"
        raise TypeError(msg)
    binding = band.keeper.binding(core)
    binding.compile_all(core)
    found: AdvancedRouter = binding.router
    return found
