"""Finds answers of rows that repeat answers which adapters published.

An answer repeats a published one if it has half of its shingles and is not many times longer. Shingles are
those of `sketch.py`, of letters and digits only, so that neither spaces nor punctuation nor invisible
characters make a difference. Unlike the similarity of whole texts, this finds an answer with a sentence added
to it, or with every tenth word replaced. docs/attribution.md has the rates.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from backend.domain.dataset import Defect
from backend.domain.published_answers import AnswerShingles
from backend.services.contribute.sketch import hash_shingles

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from backend.domain.dataset import Row
    from backend.domain.ids import Hash32, VersionId
    from backend.services.contribute.canonical_rows import DefectLog

    Rows = Sequence[tuple[Row, Hash32]]

GENERATED = "generated_answer"
"""Code of the defect."""
REPEATED = 0.5
"""Share of a published answer's shingles from which another answer repeats it."""
MIN_SHARED = 16
"""Number of shingles that both must have: a short answer, such as "Yes." or a name, proves no copy."""
MAX_LENGTHENING = 4
"""An answer that has this many times the shingles of a published one does not repeat it."""
MAX_SHARING = 32
"""A shingle counts for the first answers that have it only, so that common words cost a bounded time. Later
answers are found by their other shingles.
"""
CHARACTERS_AT_ONCE = 1 << 16
"""Characters of texts that are compared together; the last text may exceed them."""
_NOT_COMPARED = re.compile(r"[\W_]+")
_LOW = np.uint64((1 << 32) - 1)


class Repeat(NamedTuple):
    version: VersionId
    number: int
    """Number of the published answer in its file."""


def shingle_answers(version: VersionId, answers: Sequence[str]) -> AnswerShingles:
    found = [np.unique(each) for each in _split(*_shingles(answers))] if answers else []
    found = [each if len(each) >= MIN_SHARED else each[:0] for each in found]
    return AnswerShingles(
        version,
        np.concatenate([np.zeros(0, "<u4"), *found]).astype("<u4").tobytes(),
        np.array([len(each) for each in found], "<u4").tobytes(),
    )


def without_answers(published: AnswerShingles, numbers: Iterable[int]) -> AnswerShingles:
    """The same without the answers of these numbers."""
    lengths = np.frombuffer(published.lengths, "<u4").copy()
    is_dropped = np.zeros(len(lengths), dtype=bool)
    is_dropped[list(numbers)] = True
    kept = np.frombuffer(published.shingles, "<u4")[np.repeat(~is_dropped, lengths)]
    lengths[is_dropped] = 0
    return AnswerShingles(published.version, kept.tobytes(), lengths.tobytes())


class AnswerIndex:
    """Published answers of several versions, by shingle. Of answers with common shingles, those of earlier
    versions come first.
    """

    def __init__(self, published: Sequence[AnswerShingles]) -> None:
        lengths = [np.frombuffer(each.lengths, "<u4") for each in published]
        self._numbers = [
            Repeat(each.version, number)
            for each, found in zip(published, lengths, strict=True)
            for number in range(len(found))
        ]
        shingles = np.concatenate(
            [np.zeros(0, "<u4"), *(np.frombuffer(each.shingles, "<u4") for each in published)]
        )
        sizes = np.concatenate([np.zeros(0, "<u4"), *lengths]).astype(np.int64)
        answers = np.repeat(np.arange(len(sizes)), sizes)
        order = np.argsort(shingles, kind="stable")
        shingles, answers = shingles[order], answers[order]
        place = np.arange(len(shingles)) - np.searchsorted(shingles, shingles)
        self._shingles = shingles[place < MAX_SHARING]  # uint32, rising
        self._answers = answers[place < MAX_SHARING]  # int64, of each shingle
        self._sizes = np.bincount(self._answers, minlength=len(sizes))  # shingles that count [answers]

    @property
    def is_empty(self) -> bool:
        return not len(self._shingles)

    def find(self, texts: Sequence[str]) -> dict[int, Repeat]:
        """The texts that repeat a published answer, by their places, with the first such answer."""
        found: dict[int, Repeat] = {}
        for place, answer in self._pairs(texts):
            found.setdefault(place, self._numbers[answer])
        return found

    def repeated_by(self, texts: Sequence[str]) -> set[int]:
        """Numbers of the published answers that one of the texts repeats; for an index of one version."""
        return {self._numbers[answer].number for _, answer in self._pairs(texts)}

    def _pairs(self, texts: Sequence[str]) -> Iterator[tuple[int, int]]:
        """(place of a text, published answer that it repeats), rising."""
        if self.is_empty:
            return
        start, num_characters = 0, 0
        for end, text in enumerate(texts, start=1):
            num_characters += len(text)
            if num_characters >= CHARACTERS_AT_ONCE or end == len(texts):
                yield from ((start + row, answer) for row, answer in self._repeats(texts[start:end]))
                start, num_characters = end, 0

    def _repeats(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        shingles, offsets = _shingles(texts)
        rows = np.repeat(np.arange(len(texts), dtype=np.uint64), np.diff(offsets))
        distinct = np.unique(rows << np.uint64(32) | shingles)
        rows, shingles = (distinct >> np.uint64(32)).astype(np.int64), (distinct & _LOW).astype(np.uint32)
        lengths = np.bincount(rows, minlength=len(texts))
        starts = np.searchsorted(self._shingles, shingles)
        counts = np.searchsorted(self._shingles, shingles, side="right") - starts
        # Of each shingle of a text, all published answers that have it.
        places = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
        pairs = np.repeat(rows, counts) * len(self._sizes) + self._answers[places]
        pairs, num_shared = np.unique(pairs, return_counts=True)
        row, answer = np.divmod(pairs, len(self._sizes))
        size = self._sizes[answer]
        is_repeat = (num_shared >= MIN_SHARED) & (num_shared >= REPEATED * size)
        is_repeat &= lengths[row] < MAX_LENGTHENING * size
        return list(zip(row[is_repeat].tolist(), answer[is_repeat].tolist(), strict=True))


class GeneratedAnswerFilter:
    """Removes rows with an answer that repeats a published one, and logs them. Implements `RowFilter`."""

    def __init__(self, index: AnswerIndex, log: DefectLog) -> None:
        self._index = index
        self._log = log

    def __call__(self, batches: Iterable[Rows]) -> Iterator[Rows]:
        return map(self._filter, batches)

    def _filter(self, rows: Rows) -> Rows:
        if self._index.is_empty:
            return rows
        answers = [(row.line, answer) for row, _ in rows for answer in row.answers]
        repeats = self._index.find([answer for _, answer in answers])
        refused = {answers[place][0]: repeat for place, repeat in reversed(repeats.items())}
        for line in sorted(refused):
            self._log.add(_defect(line, refused[line]))
        return [(row, row_hash) for row, row_hash in rows if row.line not in refused] if refused else rows


def _defect(line: int, repeat: Repeat) -> Defect:
    message = f"its answer repeats an answer that adapter {repeat.version} generated (number {repeat.number})"
    return Defect(line, GENERATED, message)


def _shingles(texts: Sequence[str]) -> tuple[Any, Any]:
    """(32-bit hashes of all shingles uint64 [n], offset of each text's first one int64 [num_texts + 1])."""
    letters = [_NOT_COMPARED.sub("", unicodedata.normalize("NFKC", text)) for text in texts]
    hashes, offsets = hash_shingles(letters)
    return hashes & _LOW, offsets.astype(np.int64)


def _split(shingles: Any, offsets: Any) -> list[Any]:
    """The shingles of each text."""
    return np.split(shingles, offsets[1:-1])
