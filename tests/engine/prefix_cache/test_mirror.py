"""The mirror of a server's cache against a model that does the same block by block."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fast_router.engine.prefix_cache.mirror import Mirror
from fast_router.engine.prefix_cache.prompt import Prompt

WORDS = [letter * 256 for letter in "abc"]
prompts = st.lists(st.sampled_from(WORDS), max_size=5).map("".join).map(Prompt)


class MirrorAgainstModel(RuleBasedStateMachine):
    """A model keeps the last use of each block in a plain dict, and walks it whole at every question."""

    def __init__(self) -> None:
        super().__init__()
        self.mirror = Mirror(256 * 6, 10_000)
        self.last: dict[int, int] = {}
        self.uses: list[Prompt] = []
        self.known: list[int] = []

    def younger(self, serial: int) -> int:
        """Blocks of which the last use is not older than `serial`."""
        return sum(used >= serial for used in self.last.values())

    @rule(prompt=prompts)
    def use(self, prompt: Prompt) -> None:
        """What was known before comes back in stretches: where each ends, and how much was used since."""
        expected: list[tuple[int, int]] = []
        for place, block in enumerate(prompt.hashes):
            if block not in self.last:
                break
            run = (256 * (place + 1), 256 * self.younger(self.last[block]))
            if expected and expected[-1][1] == run[1]:
                expected[-1] = run
            else:
                expected.append(run)
        assert self.mirror.use(prompt) == expected
        if prompt.hashes:
            self.known.append(expected[-1][0] if expected else 0)
            self.uses.append(prompt)
            self.last.update(dict.fromkeys(prompt.hashes, len(self.uses) - 1))

    @rule()
    def undo(self) -> None:
        """A use never got there: what only it had is gone, unless it was used since."""
        for serial in range(len(self.uses))[-3:]:
            if serial % 2:
                prompt, known = self.uses[serial], self.known[serial]
                self.mirror.undo(prompt, serial, known)
                for place, block in enumerate(prompt.hashes):
                    if 256 * place >= known and self.last.get(block) == serial:
                        del self.last[block]

    @rule(blocks=st.integers(0, 12))
    def resize(self, blocks: int) -> None:
        """The budget was corrected."""
        self.mirror.budget = 256 * blocks
        self.mirror.fit()

    @rule()
    def restart(self) -> None:
        """The server has lost its cache."""
        self.mirror.clear()
        self.last.clear()
        self.uses.clear()
        self.known.clear()

    @rule(prompt=prompts, guess=st.integers(0, 6))
    def ask(self, prompt: Prompt, guess: int) -> None:
        """What counts as cached is a beginning, whatever the guess."""
        hashes = prompt.hashes
        found = self.mirror.cached(hashes, guess)
        assert found == self.mirror.cached(hashes)
        horizon = self.mirror.horizon
        assert all(self.last.get(block, -1) >= horizon for block in hashes[:found])
        assert found == len(hashes) or self.last.get(hashes[found], -1) < horizon

    @invariant()
    def fits(self) -> None:
        """As many of the latest uses count as fit the budget; the very last one always does."""
        assert set(self.mirror.seen) == set(self.last)
        assert self.mirror.held == 256 * self.younger(self.mirror.horizon)
        if self.uses:
            assert self.mirror.held <= self.mirror.budget or self.mirror.horizon >= len(self.uses) - 1
            assert 256 * self.younger(self.mirror.horizon - 1) > self.mirror.budget or self.mirror.horizon == 0


MirrorAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMirror = MirrorAgainstModel.TestCase


def test_what_is_remembered_is_bounded() -> None:
    """A hundred thousand different prompts leave as many blocks as were allowed."""
    mirror = Mirror(1e12, 500)
    chance = random.Random(5)
    for number in range(20_000):
        mirror.use(Prompt(f"{number:<300}" + "x" * chance.randrange(2000)))
    assert len(mirror) <= 500
    assert len(mirror._live) < 2000
