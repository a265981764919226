"""Replacing attributes of other packages so that every one of them can be put back.

A hot path gets a plain function in the place of the original: no proxy object, no descriptor of ours between
the caller and the call. What is replaced is looked up and written through wrapt, which finds the raw
descriptor behind a class attribute.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType
from typing import Any

import wrapt

__all__ = ["PatchSet"]

_ABSENT = object()
_log = logging.getLogger("fast_router")


class _Patch:
    """One replaced attribute, with what stood there before and what we put there."""

    __slots__ = ("attribute", "before", "layers", "owner")

    def __init__(self, owner: Any, attribute: str, before: Any) -> None:
        self.owner = owner
        self.attribute = attribute
        self.before = before
        # (replacement, what it calls), oldest first.
        self.layers: list[tuple[Any, Any]] = []

    @property
    def name(self) -> str:
        return f"{getattr(self.owner, '__name__', type(self.owner).__name__)}.{self.attribute}"

    def current(self) -> Any:
        return vars(self.owner).get(self.attribute, _ABSENT)


# What waits for a module: one import hook a module, however often we are switched on and off.
_waiting: dict[str, list[tuple[PatchSet, Callable[[ModuleType], list[str]]]]] = {}
_waiting_lock = threading.Lock()


def _arrived(module: ModuleType) -> None:
    with _waiting_lock:
        waiting = _waiting.pop(module.__name__, [])
    for patches, patch in waiting:
        patches._patch_late(module, patch)


class PatchSet:
    """The patches of one `enable()`; `restore` undoes them all.

    Attributes:
        active: False before the first patch and after `restore`. A replacement that somebody else has
            wrapped cannot be taken out; it forwards to its original from then on.
        open: False after `restore`: what waits for a module to be imported must not patch it any more.
        late: The features that were installed since, because they waited for one.
        skipped: What an installer of several features has left out, with the reason.
    """

    def __init__(self) -> None:
        self.active = False
        self.open = True
        self.late: set[str] = set()
        self.skipped: dict[str, str] = {}
        self._lock = threading.RLock()
        self._patches: dict[tuple[int, str], _Patch] = {}
        self._undo: list[Callable[[], None]] = []

    def replace(self, owner: Any, attribute: str, make: Callable[[Any], Any]) -> None:
        """Put `make(original)` in the place of `owner.attribute`.

        Several replacements of one attribute stack: each gets the one before it as its original.

        Args:
            owner: A class or a module.
            attribute: The attribute's name.
            make: Builds the replacement from the original.

        Raises:
            AttributeError: The owner has no such attribute.
        """
        with self._lock:
            _, _, original = wrapt.resolve_path(owner, attribute)
            key = (id(owner), attribute)
            patch = self._patches.get(key)
            replacement = make(original)
            function = getattr(replacement, "__func__", replacement)
            if isinstance(function, FunctionType):
                # So that whoever looks for LiteLLM's own code can find it behind ours.
                function.__dict__["__fast_router_original__"] = original
            if patch is None:
                patch = _Patch(owner, attribute, vars(owner).get(attribute, _ABSENT))
                self._patches[key] = patch
            patch.layers.append((replacement, original))
            wrapt.apply_patch(owner, attribute, replacement)
            self.active = True

    def when_imported(self, name: str, patch: Callable[[ModuleType], list[str]]) -> None:
        """Run `patch` on the module called `name`: now, or as soon as it is imported; not after `restore`.

        Args:
            name: The module's full name.
            patch: Replaces what it knows in the module and returns the features that are on by that. If it
                fails, the module is left alone, and whoever imports it does not notice.
        """
        with _waiting_lock:
            waiting = _waiting.get(name)
            if waiting is not None:
                waiting.append((self, patch))
            else:
                _waiting[name] = [(self, patch)]
        if waiting is None or name in sys.modules:
            wrapt.register_post_import_hook(_arrived, name)

    def _patch_late(self, module: ModuleType, patch: Callable[[ModuleType], list[str]]) -> None:
        with self._lock:
            if not self.open:
                return
            mark = self.mark()
            try:
                self.late.update(patch(module))
            except Exception:  # noqa: BLE001  # an import must not fail because of us
                self.rewind(mark)
                name = module.__name__
                _log.warning("fast_router: %s is left as it is, it could not be patched", name, exc_info=True)

    def on_restore(self, undo: Callable[[], None]) -> None:
        """Have `undo` called by `restore`, newest first, before attributes are put back."""
        with self._lock:
            self._undo.append(undo)
            self.active = True

    def replaced(self) -> list[tuple[Any, str, list[str], Any]]:
        """What is replaced now: owner, attribute, the modules of the layers in it, and what stood there before."""
        with self._lock:
            return [
                (patch.owner, patch.attribute, [_module_of(layer) for layer, _ in patch.layers], patch.layers[0][1])
                for patch in self._patches.values()
            ]

    @property
    def patched(self) -> list[str]:
        """The names of what is replaced now, sorted."""
        with self._lock:
            return sorted(patch.name for patch in self._patches.values())

    def mark(self) -> tuple[int, dict[tuple[int, str], int]]:
        """A point to which `rewind` can return."""
        with self._lock:
            return len(self._undo), {key: len(patch.layers) for key, patch in self._patches.items()}

    def rewind(self, mark: tuple[int, dict[tuple[int, str], int]]) -> None:
        """Undo what was done since `mark`: a feature that failed half-way leaves nothing behind."""
        with self._lock:
            undo_count, layers = mark
            self._run_undo(undo_count)
            for key, patch in reversed(list(self._patches.items())):
                keep = layers.get(key, 0)
                if keep < len(patch.layers):
                    self._take_off(patch, keep)
                    if not keep:
                        del self._patches[key]

    def restore(self) -> list[str]:
        """Put every original back, the identical object.

        Returns:
            Names that could not be put back because somebody patched over ours since; there ours only
            forwards to its original from now on.
        """
        with self._lock:
            self.active = self.open = False
            with _waiting_lock:
                for waiting in _waiting.values():
                    waiting[:] = [(patches, patch) for patches, patch in waiting if patches is not self]
            self._run_undo(0)
            stuck = [patch.name for patch in reversed(list(self._patches.values())) if not self._take_off(patch, 0)]
            self._patches.clear()
            return sorted(stuck)

    def _run_undo(self, keep: int) -> None:
        while len(self._undo) > keep:
            self._undo.pop()()

    @staticmethod
    def _take_off(patch: _Patch, keep: int) -> bool:
        """Take off the layers above `keep`; True if the attribute is as it was then."""
        ours, _ = patch.layers[-1]
        removed = patch.layers[keep:]
        del patch.layers[keep:]
        if patch.current() is not ours:
            for replacement, original in removed:
                _forward(replacement, original)
            return False
        if patch.layers:
            wrapt.apply_patch(patch.owner, patch.attribute, patch.layers[-1][0])
        elif patch.before is _ABSENT:
            delattr(patch.owner, patch.attribute)
        else:
            wrapt.apply_patch(patch.owner, patch.attribute, patch.before)
        return True


def _module_of(replacement: Any) -> str:
    return str(getattr(getattr(replacement, "__func__", replacement), "__module__", ""))


def _forward(replacement: Any, original: Any) -> None:
    """Turn a replacement that has to stay into one that only calls its original."""
    function = getattr(replacement, "__func__", replacement)
    target = getattr(original, "__func__", original)
    if not isinstance(function, FunctionType):
        return
    function.__code__ = _forwarding_code(function.__code__.co_freevars)
    function.__defaults__ = None
    function.__kwdefaults__ = {"_original": target}


def _forwarding_code(free: tuple[str, ...]) -> CodeType:
    # A function's code can be exchanged for code with the same free variables, so these must be named in it.
    names = ", ".join(free)
    source = "def outer():\n"
    source += f"    {' = '.join(free)} = None\n" if free else ""
    source += "    def forward(*args, _original, **kwargs):\n"
    source += f"        ({names},)\n" if free else ""
    source += "        return _original(*args, **kwargs)\n"
    source += "    return forward\n"
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    forward: FunctionType = namespace["outer"]()
    return forward.__code__
