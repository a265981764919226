"""Our refusals as errors that LiteLLM's Router and proxy know what to do with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.errors import BUSY

if TYPE_CHECKING:
    import httpx

__all__ = ["busy", "timed_out"]


def busy(model: Any, message: str = BUSY, *, retry_after: float, final: bool = False) -> Exception:
    """A refusal because everybody is at their limit: 503 with Retry-After.

    Args:
        model: What was asked for.
        message: What the caller reads.
        retry_after: Seconds until another try may have more luck.
        final: True if LiteLLM is not to try again by itself.
    """
    from litellm import exceptions  # noqa: PLC0415 - it is imported

    response = _response(503, retry_after)
    more: dict[str, Any] = {"num_retries": 0} if final else {}
    error: Exception = exceptions.ServiceUnavailableError(
        message, llm_provider="", model=str(model), response=response, **more
    )
    # Where the proxy looks for its answer's headers.
    error.headers = {"retry-after": response.headers["retry-after"]}  # type: ignore[attr-defined]
    return error


def timed_out(model: Any, message: str, *, retry_after: float) -> Exception:
    """A refusal because everybody stayed at their limit until the time to wait was over: 504."""
    from litellm import exceptions  # noqa: PLC0415 - it is imported

    request = _response(504, retry_after).request
    error: Exception = exceptions.APIError(504, message, llm_provider="", model=str(model), request=request)
    return error


def _response(status: int, retry_after: float) -> httpx.Response:
    import httpx  # noqa: PLC0415 - LiteLLM is imported, and so is this

    headers = {"retry-after": str(max(1, round(retry_after)))}
    return httpx.Response(status, headers=headers, request=httpx.Request("POST", "https://fast-router.invalid"))
