"""Agents at work: sessions that share a long system prompt with tools, and grow with every turn.

Each session waits for its answer before its next turn, as a program does; sessions begin at fixed times and add the
same texts, so that two runs differ by who served them alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Agents", "Turns", "work"]

# ruff: noqa: SIM905 - a sentence reads better than a list of its words
_WORDS = (
    "the router sends every call where its beginning was computed before and looks at what is queued there first "
    "because a long prompt costs more than a short answer while servers keep blocks of it for those who come again"
).split()


@dataclass(frozen=True)
class Agents:
    """What the sessions are like.

    Attributes:
        sessions: How many.
        turns: Calls of each.
        system: Characters of the system prompt that they share.
        said: Characters that a turn adds.
        every: Seconds between two sessions' beginnings, on average (a Poisson process).
        pause: Seconds between an answer and the next turn, on average.
        seed: The same seed gives the same texts and times.
    """

    sessions: int = 16
    turns: int = 6
    system: int = 24_000
    said: int = 3000
    every: float = 0.5
    pause: float = 0.3
    seed: int = 1

    def tools(self) -> list[dict[str, Any]]:
        """Give the tools that each call offers."""
        parameters = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
        return [
            {
                "type": "function",
                "function": {"name": name, "description": f"To {name} a file.", "parameters": parameters},
            }
            for name in ("read", "write", "list", "search")
        ]


@dataclass
class Turns:
    """What came of it.

    Attributes:
        first_tokens: Seconds from a call to the first token of its answer, in the order of the answers.
        failures: Calls that failed, by error type.
        best: Share of the prompts' characters that an earlier call had sent before: what one server with an endless
            cache would find there.
    """

    first_tokens: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    best: float = 0.0


async def work(call: Callable[..., Awaitable[AsyncIterator[Any]]], agents: Agents) -> Turns:
    """Let the sessions work.

    Args:
        call: `call(messages=…, tools=…)` begins a streamed chat completion, such as `router.acompletion` with its
            model, and returns its chunks.
        agents: What they are like.
    """
    rng = random.Random(agents.seed)
    system = {"role": "system", "content": _text(rng, agents.system)}
    turns = Turns()
    shared = {"sent": 0, "known": 0, "systems": 0}
    begins = 0.0
    running = []
    for _ in range(agents.sessions):
        begins += rng.expovariate(1 / agents.every)
        running.append(
            asyncio.create_task(_session(call, agents, system, random.Random(rng.random()), begins, turns, shared))
        )
    await asyncio.gather(*running)
    turns.best = shared["known"] / max(1, shared["sent"])
    return turns


async def _session(
    call: Callable[..., Awaitable[AsyncIterator[Any]]],
    agents: Agents,
    system: dict[str, str],
    rng: random.Random,
    begins: float,
    turns: Turns,
    shared: dict[str, int],
) -> None:
    await asyncio.sleep(begins)
    messages: list[dict[str, str]] = [system]
    for turn in range(agents.turns):
        known = _length(messages) if turn or shared["systems"] else 0
        shared["systems"] = 1
        messages.append({"role": "user", "content": _text(rng, agents.said)})
        shared["known"] += known
        shared["sent"] += _length(messages)
        began = time.perf_counter()
        said: list[str] = []
        try:
            async for chunk in await call(messages=list(messages), tools=agents.tools()):
                if not said:
                    turns.first_tokens.append(time.perf_counter() - began)
                said.append(_said(chunk))
        except Exception as error:  # noqa: BLE001 - a failed call is a result here
            turns.failures.append(type(error).__name__)
        messages.append({"role": "assistant", "content": "".join(said)})
        await asyncio.sleep(rng.expovariate(1 / agents.pause))


def _said(chunk: Any) -> str:
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""


def _length(messages: Sequence[dict[str, str]]) -> int:
    return sum(len(message["content"]) for message in messages)


def _text(rng: random.Random, characters: int) -> str:
    words: list[str] = []
    length = 0
    while length < characters:
        words.append(rng.choice(_WORDS))
        length += len(words[-1]) + 1
    return " ".join(words)[:characters]
