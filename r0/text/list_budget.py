"""How long the documents of a list may be so that the list fits its budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from r0.text.plain_text import Pieces


@dataclass(frozen=True, slots=True)
class Passage:
    """A document of a list: its text with a leading space, the tokens of its beginning, and its number of tokens."""

    text: str
    pieces: Pieces
    tokens: int

    def first(self, budget: int) -> str:
        """The first ``budget`` tokens as text, cut at a character boundary."""
        if self.tokens <= budget:
            return self.text[1:]
        kept = at_character_end(self.pieces.offsets, budget)
        return self.text[1 : self.pieces.offsets[kept - 1][1]].rstrip() if kept else ""

    def cut(self, budget: int) -> int:
        """The number of tokens that exceed ``budget``."""
        return 0 if self.tokens <= budget else self.tokens - at_character_end(self.pieces.offsets, budget)


def fitted(
    passages: Sequence[Passage], longest: int, over: int, room: int, list_ids: Callable[[int], list[int]]
) -> tuple[int, list[int]] | None:
    """The largest common document length (tokens) at which a list fits, and the list's ids; None if it fits at none.

    Args:
        passages: the documents.
        longest: a common length (tokens) at which the list is too long.
        over: by how many tokens.
        room: tokens that the ids may take.
        list_ids: the list's ids at a common length.
    """
    lengths = [min(passage.tokens, longest) for passage in passages]
    budget = max(lengths) - 1
    while budget > 1 and sum(max(0, length - budget) for length in lengths) < over:
        budget -= 1
    # Cutting within a word can change the number of tokens by one or two, so the last steps are found by trying.
    ids = list_ids(budget)
    while len(ids) > room and budget > 1:
        budget -= 1
        ids = list_ids(budget)
    if budget < 1 or len(ids) > room:
        return None
    while budget + 1 < longest:
        longer = list_ids(budget + 1)
        if len(longer) > room:
            break
        budget, ids = budget + 1, longer
    return budget, ids


def at_character_end(offsets: Sequence[tuple[int, int]], kept: int) -> int:
    """The largest number of tokens, at most ``kept`` and fewer than all, that ends at a character boundary."""
    while kept > 0 and offsets[kept][0] < offsets[kept - 1][1]:  # both tokens hold bytes of the same character
        kept -= 1
    return kept
