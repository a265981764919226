"""LiteLLM 1.110: streams that fail before their first token, and streams that hang.

LiteLLM reads a chat stream's first chunk within the attempt, and takes Responses and Messages streams that fail before
any content through its retries by itself, which our choice and ledger follow. What is left: text completions, whose
first chunk is read here, and `stream_idle_timeout` for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.litellm_plugin.layers.first_chunk import begun, first_chunk_within

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]


def _open_attempt_stream(original: Any) -> Any:
    async def open_attempt_stream(attempt: Any, response: Any) -> Any:
        opened = await original(attempt, response)
        options = settings.current()
        eager = options.stream_failover and attempt.op == "atext_completion" and opened is not None
        if not attempt.kwargs.get("stream") or not (eager or options.stream_idle_timeout):
            return opened
        return await begun(opened, eager=bool(eager), idle=options.stream_idle_timeout)

    return open_attempt_stream


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Read the first chunk of streams within their attempt, and do not wait for ever for any."""
    from litellm.router_rust.invoke import streaming  # noqa: PLC0415 - LiteLLM is imported

    patches.replace(streaming, "_aread_first_chunk", lambda original: first_chunk_within(original, ledgers=False))
    # The core has it by a name of its own; the lane asks the module.
    for module in (band.module, streaming):
        patches.replace(module, "open_attempt_stream", _open_attempt_stream)
    return ["stream_failover"]
