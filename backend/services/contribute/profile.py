"""What the rows of an upload are like: lengths, tokens, languages; in one pass and bounded memory.

Lengths are counted of all rows. Tokens and languages are counted of the rows with the smallest hashes: a
choice that is uniform, needs no second pass, and is the same whatever the order.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from backend.domain.contribution import Profile

if TYPE_CHECKING:
    from backend.domain.dataset import Row
    from backend.domain.ids import Hash32


CountTokens = Callable[[Sequence[str]], int | None]
"""Tokens of some texts, all together, as the base model cuts them; None if it does not say."""
SAMPLE_ROWS = 1000
SAMPLE_CHARACTERS = 2000
"""Of a row, its first ones."""
MIN_CONFIDENCE = 0.5
UNDETERMINED = "und"
"""ISO 639's code where the words do not say."""


class Profiler:
    def __init__(self, count_tokens: CountTokens) -> None:
        self._count_tokens = count_tokens
        self.num_rows = 0
        self.num_characters = 0
        self._lengths: Counter[int] = Counter()
        self._sample: list[tuple[int, str]] = []
        """(minus the hash, text): a heap whose first is the next to go."""
        self._end = "0x" + "g" * 64
        """No hash from here on is sampled."""

    def add(self, rows: Sequence[tuple[Row, Hash32]]) -> None:
        """Those that come next, with their hashes."""
        lengths = [row.num_characters for row, _ in rows]
        self.num_rows += len(rows)
        self.num_characters += sum(lengths)
        self._lengths.update([length.bit_length() for length in lengths])
        for row, row_hash in rows:
            if row_hash < self._end:
                self._take(row, row_hash)

    def _take(self, row: Row, row_hash: Hash32) -> None:
        ranked = (-int(row_hash, 16), _text(row))
        if len(self._sample) < SAMPLE_ROWS:
            heapq.heappush(self._sample, ranked)
            return
        heapq.heappushpop(self._sample, ranked)
        self._end = f"0x{-self._sample[0][0]:064x}"

    def profile(self) -> Profile:
        texts = [text for _, text in sorted(self._sample, reverse=True)]
        num_sampled_characters = sum(map(len, texts))
        counted = self._count_tokens(texts) if texts else None
        return Profile(
            num_sampled=len(texts),
            is_exact=num_sampled_characters == self.num_characters,
            num_tokens=None if counted is None else counted * self.num_characters // num_sampled_characters,
            languages=dict(Counter(map(language, texts)).most_common()),
            lengths={str((1 << bits) - 1): count for bits, count in sorted(self._lengths.items())},
        )


def language(text: str) -> str:
    """ISO 639 code, or `UNDETERMINED`."""
    code, confidence = _identifier().classify(text)
    return str(code) if confidence >= MIN_CONFIDENCE else UNDETERMINED


def _text(row: Row) -> str:
    """The start of what it says. Joined by nothing, so that the counts of characters add up."""
    return "".join(row.texts)[:SAMPLE_CHARACTERS]


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
