"""A YAML file as Python values, or one line that says why not, whatever is in it.

PyYAML raises more than its own errors: a value may be tagged as what it is not (`!!int ten`, `!!timestamp now`), be a
date that no calendar has, a number of too many digits, or nest deeper than Python goes.
"""

from __future__ import annotations

from fast_router.errors import ConfigurationError, without_quotes

__all__ = ["parse", "read"]


def read(path: str, remedy: str = "") -> object:
    """Give what a YAML file holds.

    Args:
        path: The file.
        remedy: What to do where it cannot be opened; ends that message.

    Raises:
        ConfigurationError: It cannot be read, or is no YAML; the message names the file, and where it can the line.
    """
    from pathlib import Path  # noqa: PLC0415 - `import fast_router` stays cheap

    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror or error}){remedy and f'; {remedy}'}"
        raise ConfigurationError(msg) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is no text in UTF-8; save it as such") from None
    except ValueError:  # a name that no file can have
        raise ConfigurationError(f"{path!r}: cannot be read{remedy and f'; {remedy}'}") from None
    try:
        return parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def parse(text: str, loader: type | None = None) -> object:
    """Give what a text in YAML says.

    Args:
        text: The YAML.
        loader: PyYAML's loader, `SafeLoader` by default.

    Raises:
        ConfigurationError: It is no YAML; the message shows nothing of it that could be a secret.
    """
    import yaml  # noqa: PLC0415 - as above

    try:
        return yaml.load(text, Loader=loader or yaml.SafeLoader)  # noqa: S506, RUF100
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = without_quotes(getattr(error, "problem", None) or "cannot be parsed")
    except RecursionError:
        where, problem = "", "it is nested too deeply"
    except Exception:  # noqa: BLE001 - PyYAML's own mistakes, whose words would show the value
        where, problem = "", "a value is not what it is tagged as, or no date or number that there can be"
    raise ConfigurationError(f"not valid YAML{where}: {problem}")
