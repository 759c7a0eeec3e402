"""Computes the profile of an upload: lengths, tokens, languages; in one pass and bounded memory.

Lengths are of all rows. Tokens and languages are of the rows with the smallest hashes, a uniform sample that
needs no second pass and does not depend on the order of rows.
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
"""Total tokens of texts with the base model's tokenizer; None if it is not available."""
SAMPLE_ROWS = 1000
SAMPLE_CHARACTERS = 2000
"""Characters from the start of a row that are sampled."""
MIN_CONFIDENCE = 0.5
UNDETERMINED = "und"
"""ISO 639 code of an undetermined language."""


class Profiler:
    def __init__(self, count_tokens: CountTokens) -> None:
        self._count_tokens = count_tokens
        self.num_rows = 0
        self.num_characters = 0
        self._lengths: Counter[int] = Counter()
        self._sample: list[tuple[int, str]] = []
        """Heap of (negated hash, text), whose first item has the largest hash."""
        self._hash_limit = "0x" + "g" * 64
        """Rows with this hash or a larger one are not sampled."""

    def add(self, rows: Sequence[tuple[Row, Hash32]]) -> None:
        """Add the next rows with their hashes."""
        lengths = [row.num_characters for row, _ in rows]
        self.num_rows += len(rows)
        self.num_characters += sum(lengths)
        self._lengths.update([length.bit_length() for length in lengths])
        for row, row_hash in rows:
            if row_hash < self._hash_limit:
                self._sample_row(row, row_hash)

    def _sample_row(self, row: Row, row_hash: Hash32) -> None:
        ranked = (-int(row_hash, 16), _text(row))
        if len(self._sample) < SAMPLE_ROWS:
            heapq.heappush(self._sample, ranked)
            return
        heapq.heappushpop(self._sample, ranked)
        self._hash_limit = f"0x{-self._sample[0][0]:064x}"

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
    """The start of the row's texts, joined without separators, so that character counts add up."""
    return "".join(row.texts)[:SAMPLE_CHARACTERS]


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
