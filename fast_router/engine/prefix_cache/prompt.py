"""A prompt as numbers: one per beginning, so that two prompts share as many as they have text in common.

The text is cut into blocks, short ones first and longer ones further on, and each block's checksum (CRC-32, native and
the same in every process) goes on from the one before: equal numbers are equal beginnings. The block's place stands
above the checksum, so that only beginnings of the same length can be taken for one another, once in four thousand
million. Such a mistake costs a detour, never an answer. Nothing of the text is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from operator import add
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BYTES_PER_TOKEN", "Prompt"]

BYTES_PER_TOKEN = 4.0
"""Of a prompt whose tokens were not counted."""

# (block, up to): a block is at most a sixteenth of what comes before it or so, and no server's cache is finer than
# that by much; a hundred blocks then do for a hundred thousand characters.
_BLOCKS = ((256, 1024), (512, 4096), (1024, 24_576), (2048, 131_072), (4096, 524_288), (16_384, 8_388_608))
# What is said in far fewer characters than tokens (ids in place of words) is cut finer by these factors.
_FINER = ((0.7, 1), (0.09, 8), (0.0, 64))


class _Cuts:
    """Where to cut a text; `finer` divides every length."""

    def __init__(self, finer: int) -> None:
        ends: list[int] = []
        end = 0
        for block, up_to in _BLOCKS:
            while end < up_to // finer:
                end += max(1, block // finer)
                ends.append(end)
        self.ends = tuple(ends)
        self.slices = [slice(start, end) for start, end in pairwise((0, *ends))]
        self.places = [place << 32 for place in range(len(ends))]


_CUTS = {finer: _Cuts(finer) for _, finer in _FINER}


class Prompt:
    """What is known of one prompt.

    Attributes:
        hashes: A number per whole block: of the text from the beginning to the end of that block.
        ends: Where each block ends, in bytes; longer than `hashes`.
        length: Bytes of the text.
        tokens: Of the prompt, estimated if they were not counted.
        counted: Whether they were.
        finer: By what the usual blocks were divided.
        teaches: Whether it is to be remembered where it is sent.
    """

    __slots__ = ("counted", "ends", "finer", "hashes", "length", "teaches", "tokens")

    def __init__(self, text: str, tokens: float = 0, namespace: str = "") -> None:
        """Hash a text.

        Args:
            text: The whole prompt, in the order in which a server renders it.
            tokens: How many it has, 0 if nobody counted.
            namespace: Prompts of different namespaces share nothing (a cache salt).
        """
        data = text.encode("utf-8", "surrogatepass")
        length = self.length = len(data)
        self.teaches = True
        self.counted = tokens > 0
        self.tokens = tokens if tokens > 0 else length / BYTES_PER_TOKEN
        self.finer = 1
        if tokens > 0 and length < 0.7 * tokens:
            self.finer = next(finer for share, finer in _FINER if length >= share * tokens)
        cuts = _CUTS[self.finer]
        ends = self.ends = cuts.ends
        count = bisect_right(ends, length)
        state = crc32(namespace.encode("utf-8", "surrogatepass")) if namespace else 0
        sums = [state := crc32(data[block], state) for block in cuts.slices[:count]]
        self.hashes = list(map(add, sums, cuts.places))

    @classmethod
    def known(cls, sums: Sequence[int], length: int, tokens: float, finer: int, *, counted: bool) -> Prompt:
        """A prompt of which another process told; see the attributes.

        Args:
            sums: `sums` of the prompt there.
            length: Bytes of its text.
            tokens: Of the prompt.
            finer: By what the usual blocks were divided.
            counted: Whether its tokens were counted.

        Raises:
            ValueError: No text has these figures.
        """
        cuts = _CUTS.get(finer)
        if cuts is None or not 0 < len(sums) == bisect_right(cuts.ends, length) or tokens < 0:
            msg = f"{len(sums)} blocks of {length} bytes, cut {finer} times finer"
            raise ValueError(msg)
        prompt = cls.__new__(cls)
        prompt.length, prompt.tokens, prompt.finer, prompt.counted = length, tokens, finer, counted
        prompt.teaches = True
        prompt.ends = cuts.ends
        prompt.hashes = list(map(add, sums, cuts.places))
        return prompt

    @property
    def sums(self) -> list[int]:
        """The checksums alone, 32 bits each: what another process needs to know of it."""
        return [number & 0xFFFFFFFF for number in self.hashes]

    def __repr__(self) -> str:
        # Not the numbers: what was asked stays with who asked.
        return f"<Prompt: {self.length} bytes, {len(self.hashes)} blocks>"
