"""What a proxy's YAML says to fast_router, checked before the proxy starts: one line in place of a traceback.

LiteLLM finds the same mistakes while it starts, and tells of them at the end of some hundred lines. What is not surely
a mistake is left to it: names of its own, values from the environment, files that it includes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fast_router.errors import ConfigurationError, UnknownStrategyError, nearest
from fast_router.settings import yaml_file

__all__ = ["check"]

_SURE = 0.85
"""From so much likeness on, a name that nobody knows is a strategy misspelt, and none that a callback will register."""
_OURS = ("fast_router", "fast-router", "fastrouter", "routing_strategy")
"""A file with none of these has nothing for us."""
_CALLBACKS = ("callbacks", "success_callback", "failure_callback")
_HANDLERS = ("fast_router.handler", "fast_router.handler.handler")
_TOLD = 10
_NAMES = ("types/router.py", "router.py", "litellm_core_utils/routing_groups.py")
"""Where LiteLLM's sources name its strategies; read as text, for importing LiteLLM takes seconds."""


def check(path: str) -> None:
    """Read a proxy's YAML for mistakes in what is addressed to us.

    Args:
        path: The file. One that cannot be read is left to LiteLLM.

    Raises:
        ConfigurationError: One line that names file, entry, value and remedy; of several mistakes, a line for each.
    """
    import yaml  # noqa: PLC0415 - only where there is a proxy's file

    try:
        text = Path(path).read_text(encoding="utf-8")
        if not any(word in text for word in _OURS):
            return
        # The parser in C, where there is one: a file of a thousand deployments takes the other one a second.
        document = yaml_file.parse(text, getattr(yaml, "CSafeLoader", None))
    except (OSError, ValueError):  # a ConfigurationError is one
        return
    problems = list(_problems(document, Path(path).parent)) if isinstance(document, Mapping) else []
    if len(problems) == 1:
        raise ConfigurationError(f"{path}: {problems[0]}")
    if problems:
        more = [f"… and {len(problems) - _TOLD} more"] if len(problems) > _TOLD else []
        raise ConfigurationError("\n  ".join([f"{path}:", *problems[:_TOLD], *more]))


def _problems(document: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Each mistake in a sentence."""
    looks: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
    for where, said in _strategies(document.get("router_settings")):
        looks.append((_known, (f"router_settings.{where}routing_strategy", said.get("routing_strategy"))))
        looks.append((_arguments, (f"router_settings.{where}", said)))
    looks.append((_callbacks, (document.get("litellm_settings"), folder)))
    entries = document.get("model_list")
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, Mapping):
            looks.append((_entry, (f"model_list[{number}]", entry)))
    for look, arguments in looks:
        try:
            look(*arguments)
        except ConfigurationError as error:
            yield str(error)


def _strategies(settings: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The places that name a strategy, and where each is."""
    if isinstance(settings, Mapping):
        yield "", settings
        groups = settings.get("routing_groups")
        for number, group in enumerate(groups if isinstance(groups, list) else ()):
            if isinstance(group, Mapping):
                yield f"routing_groups[{number}].", group


def _known(where: str, name: Any) -> None:
    from fast_router.engine.strategies import canonical, known_strategies  # noqa: PLC0415 - only for such a file

    try:
        if isinstance(name, str):
            canonical(name)
    except UnknownStrategyError as error:
        if nearest(name, known_strategies(), cutoff=_SURE) and not _litellm_has(name):
            raise ConfigurationError(f"{where}: {error}") from None


def _arguments(where: str, said: Mapping[str, Any]) -> None:
    from fast_router.engine.strategies import canonical, check_arguments  # noqa: PLC0415 - only for such a file
    from fast_router.litellm_plugin.strategy_names import LITELLM  # noqa: PLC0415 - only for such a file

    name, arguments = said.get("routing_strategy"), said.get("routing_strategy_args")
    if not isinstance(name, str) or not arguments or _from_environment(arguments):
        return
    try:
        own = canonical(name)
        if own not in LITELLM and not _litellm_has(name):
            check_arguments(own, arguments)
    except UnknownStrategyError:
        return
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}{error}") from None


def _from_environment(said: Any) -> bool:
    """Whether a text in it stands for a variable; each part is seen once, as aliases may repeat or contain it."""
    left, seen = [said], {id(said)}
    while left:
        part = left.pop()
        if isinstance(part, str):
            if "os.environ/" in part:
                return True
            continue
        inside = (
            [*part, *part.values()] if isinstance(part, Mapping) else part if isinstance(part, (list, tuple)) else ()
        )
        for each in inside:
            if id(each) not in seen:
                seen.add(id(each))
                left.append(each)
    return False


def _litellm_has(name: str) -> bool:
    """Whether LiteLLM's sources have such a name; True where there are none to read."""
    spec = find_spec("litellm")
    if spec is None or spec.origin is None:
        return True
    folder = Path(spec.origin).parent
    texts = [(folder / each).read_text(encoding="utf-8") for each in _NAMES if (folder / each).is_file()]
    return not texts or any(f"{quote}{name}{quote}" in text for text in texts for quote in "\"'")


def _callbacks(settings: Any, folder: Path) -> None:
    """Refuse what can only be meant as our callback; `folder` is where LiteLLM looks for a user's own."""
    for key in _CALLBACKS if isinstance(settings, Mapping) else ():
        said = settings.get(key)
        for name in said if isinstance(said, list) else [said]:
            if isinstance(name, str) and name not in _HANDLERS and _ours(name, folder):
                msg = f"litellm_settings.{key}: there is no {name!r}; did you mean {_HANDLERS[0]!r}?"
                raise ConfigurationError(msg)


def _ours(name: str, folder: Path) -> bool:
    module = name.partition(".")[0]
    if module == _HANDLERS[0].partition(".")[0]:
        return True
    near = nearest(name, _HANDLERS[:1], cutoff=_SURE) is not None
    return near and not (folder / f"{module}.py").exists() and not (module.isidentifier() and find_spec(module))


def _entry(where: str, entry: Mapping[str, Any]) -> None:
    from fast_router.deployment_options import options_of  # noqa: PLC0415 - only for such a file

    info = entry.get("model_info")
    said = info.get("fast_router") if isinstance(info, Mapping) else None
    # What LiteLLM takes from the environment is not here yet.
    if said is None or _from_environment(said):
        return
    _known(f"{where}: model_info.fast_router.strategy", options_of(entry, where).strategy)
