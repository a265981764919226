"""What `rescue` may be: on, off, or `threads` for synchronous calls as well."""

from __future__ import annotations

from typing import Final

__all__ = ["THREADS", "check_rescue"]

THREADS: Final = "threads"


def check_rescue(value: object) -> bool | str:
    """On or off, or `threads`.

    Raises:
        ValueError: It is none of them.
    """
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - `import fast_router` stays cheap

    if isinstance(value, str) and value.strip().lower() == THREADS:
        return THREADS
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        msg = "expected on, off, or threads"
        raise ValueError(msg) from None
