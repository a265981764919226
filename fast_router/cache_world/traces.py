"""Published traces: one JSON object per line."""

from __future__ import annotations

import json
import math
from pathlib import Path

from fast_router.cache_world.requests import TRACE_TOKENS, Request, Workload
from fast_router.errors import ConfigurationError

__all__ = ["read_trace"]


def read_trace(path: str | Path, *, block_tokens: int = TRACE_TOKENS, cache_blocks: int = 3000) -> Workload:
    """Read a published trace: one JSON object per line with timestamp, input_length, output_length and hash_ids.

    Args:
        path: The file.
        block_tokens: Tokens per block (512 in the traces of the Mooncake paper).
        cache_blocks: Blocks that a server's cache holds.

    Raises:
        ConfigurationError: It cannot be read, or a line is malformed; the message names the line.
    """
    requests: list[Request] = []
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    requests.append(_of_line(line, f"{path}: line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})"
        raise ConfigurationError(msg) from error
    if not requests:
        msg = f"{path}: no requests in it; give a trace with one JSON object per line"
        raise ConfigurationError(msg)
    requests.sort(key=lambda request: request.at)
    return Workload(Path(path).stem, requests, block_tokens, cache_blocks)


def _of_line(line: str, where: str) -> Request:
    wanted = "{timestamp: ms, input_length: tokens, output_length: tokens, hash_ids: [a number per block]}"
    try:
        row = json.loads(line)
        request = Request(
            float(row["timestamp"]) / 1000,
            tuple(int(block) for block in row["hash_ids"]),
            int(row["input_length"]),
            int(row["output_length"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{where} is not a request: {wanted} as JSON is needed"
        raise ConfigurationError(msg) from error
    if not (math.isfinite(request.at) and request.at >= 0 and request.tokens >= 0 and request.output >= 0):
        msg = f"{where} has a number that is negative or not finite"
        raise ConfigurationError(msg)
    return request
