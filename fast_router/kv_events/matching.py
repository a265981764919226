"""Which beginnings of a text a server holds, when its events tell token blocks.

The router knows a prompt by numbers of its text's beginnings, the server by blocks of tokens. A prompt that was sent is
tokenised once, off the event loop, as the server does it, and each beginning of its text is tied to the last block of
tokens that lies within. Numbers that depend on the text alone then stand for blocks, and the next prompt with the same
beginning needs no tokenizer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fast_router.kv_events.server_cache import keys
from fast_router.kv_events.tokenizer import LocalTokenizer

__all__ = ["Ties", "tokens_within"]

_KEPT = 1 << 18


class Ties:
    """Beginnings of texts, tied to blocks of tokens. Written by one thread; `blocks` may be read by others.

    Args:
        tokenizer: The servers' own.
        kept: Beginnings that are remembered, least recently tied forgotten first.

    Attributes:
        blocks: By number of a beginning: the key of the last block within.
    """

    def __init__(self, tokenizer: LocalTokenizer, kept: int = _KEPT) -> None:
        self._tokenizer = tokenizer
        self._kept = kept
        self.blocks: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self.blocks)

    def tie(
        self, hashes: Sequence[int], ends: Sequence[int], text: str, request: Mapping[str, Any] | None, size: int
    ) -> None:
        """Tokenise a prompt and tie its beginnings, unless all of them are tied.

        Args:
            hashes: A number per beginning of `text`.
            ends: Where each ends, in bytes of UTF-8.
            text: The prompt as the router reads it.
            request: `messages` and `tools` of a chat, None where the text is sent as it is.
            size: Tokens per block.
        """
        if not hashes or hashes[-1] in self.blocks:
            for number in hashes:
                if number in self.blocks:
                    self.blocks.move_to_end(number)
            return
        within = tokens_within(self._tokenizer, ends[: len(hashes)], text, request)
        if within is None:
            return
        ids, counts = within
        chain = keys(ids, size)
        for number, count in zip(hashes, counts, strict=False):
            if count >= size:
                self._enter(number, chain[count // size - 1])

    def _enter(self, number: int, key: int) -> None:
        self.blocks[number] = key
        self.blocks.move_to_end(number)
        if len(self.blocks) > self._kept:
            self.blocks.popitem(last=False)


def tokens_within(
    tokenizer: LocalTokenizer, ends: Sequence[int], text: str, request: Mapping[str, Any] | None
) -> tuple[list[int], list[int]] | None:
    """Tokenise a prompt, and count the tokens that lie within each beginning of its text.

    Args:
        tokenizer: The servers' own.
        ends: Where beginnings of `text` end, in bytes of UTF-8.
        text: The prompt as the router reads it.
        request: `messages` and `tools` of a chat, None where the text is sent as it is.

    Returns:
        The token ids, and a count per end, as far as the text could be found in what the server renders; None if it
        could not be rendered.
    """
    places = _characters(text, ends)
    if request is None:
        ids, stops = tokenizer.encode(text, special=True)
        return ids, [bisect_right(stops, place) for place in places]
    rendered = tokenizer.render(request["messages"], request.get("tools"))
    if rendered is None:
        return None
    ids, stops = tokenizer.encode(rendered, special=False)
    counts = []
    pieces = _pieces(text, rendered, request["messages"])
    piece = 0
    for place in places:
        while piece < len(pieces) and pieces[piece][0] + pieces[piece][2] < place:
            piece += 1
        if piece == len(pieces):
            break
        mine, its, _ = pieces[piece]
        # Between two pieces stands what the template has of its own: all of it, up to the next piece, must be there.
        counts.append(bisect_right(stops, its + max(0, place - mine)))
    return ids, counts


def _pieces(text: str, rendered: str, messages: Sequence[Any]) -> list[tuple[int, int, int]]:
    """Find what the messages say in both texts: (place in ours, place in the server's, length), in their order."""
    found = []
    mine = its = 0
    for said in _said(messages):
        mine, its = text.find(said, mine), rendered.find(said, its)
        if mine < 0 or its < 0:
            break
        found.append((mine, its, len(said)))
        mine, its = mine + len(said), its + len(said)
    return found


def _said(messages: Sequence[Any]) -> Iterable[str]:
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        parts = content if isinstance(content, list) else [content]
        for part in parts:
            said = part.get("text") if isinstance(part, Mapping) else part
            if isinstance(said, str) and said.strip():
                yield said.strip()  # templates strip, so what stands around is not looked for


def _characters(text: str, ends: Sequence[int]) -> list[int]:
    """Turn places in bytes into places in characters."""
    if text.isascii():
        return list(ends)
    data = text.encode("utf-8", "surrogatepass")
    places, place, before = [], 0, 0
    for end in ends:
        # A place within a character counts as before it.
        place += len(data[before:end].decode("utf-8", "ignore")) if end > before else 0
        places.append(place)
        before = end
        while before > 0 and before < len(data) and data[before] & 0xC0 == 0x80:
            before -= 1
    return places
