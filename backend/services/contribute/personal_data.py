"""Finds personal data in rows with the pattern recognisers of presidio, in a child process.

In the API's process presidio would load spaCy and torch, which are not needed here. Patterns and checksums
find numbers and addresses of a known form; they do not find names, postal addresses, or facts stated in
words. Rows that cannot match are not sent to the child, which is started for the first row that can.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from backend.domain.contribution import PersonalData, PersonalFinding, PersonalKind
from backend.domain.dataset import FIELDS, Defect, RowFormat
from backend.domain.errors import Unavailable
from backend.processes.child import Child, ChildError, module_command
from backend.services.contribute.personal_data_child import END

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Self

    from backend.domain.dataset import Row
    from backend.domain.ids import Hash32
    from backend.services.contribute.canonical_rows import DefectLog

    Rows = Sequence[tuple[Row, Hash32]]

CHILD = "backend.services.contribute.personal_data_child"
MAX_FINDINGS_REPORTED = 100
CANDIDATE = re.compile(r"[\d@]|:[0-9A-Fa-f]{0,4}:")
"""Matches every text with a finding: all kinds have a digit, an @, or (IPv6 of letters) two colons."""


class PersonalDataUnchecked(Unavailable):
    """The search for personal data failed on this file; nothing of it was stored."""


class PersonalDataFilter:
    """Filters the rows of one upload. Logs rows with a kind in `refused` as defects, and counts all kinds."""

    def __init__(self, refused: frozenset[PersonalKind], log: DefectLog) -> None:
        self._refused = refused
        self._log = log
        self._search: PersonalDataSearch | None = None
        self._counts: Counter[PersonalKind] = Counter()
        self._first: list[PersonalFinding] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._search is not None:
            self._search.end()

    def __call__(self, batches: Iterable[Rows]) -> Iterator[Rows]:
        """Yield of each batch the rows that may be contributed. The child searches one batch ahead.

        Errors: `PersonalDataUnchecked`.
        """
        pending: tuple[Rows, PersonalDataSearch | None] | None = None
        for rows in batches:
            following = rows, self._start_search(rows)
            if pending is not None:
                yield self._filter(*pending)
            pending = following
        if pending is not None:
            yield self._filter(*pending)

    def summary(self) -> PersonalData:
        """The findings so far."""
        return PersonalData(dict(self._counts), tuple(self._first))

    def _start_search(self, rows: Rows) -> PersonalDataSearch | None:
        """None if no row can have a finding."""
        candidates = [row for row, _ in rows if any(map(CANDIDATE.search, _texts(row)))]
        if not candidates:
            return None
        self._search = self._search or PersonalDataSearch()
        self._search.ask(candidates)
        return self._search

    def _filter(self, rows: Rows, search: PersonalDataSearch | None) -> Rows:
        refused: set[int] = set()
        for finding in () if search is None else search.answer():
            self._counts[finding.kind] += 1
            if len(self._first) < MAX_FINDINGS_REPORTED:
                self._first.append(finding)
            if finding.kind in self._refused:
                refused.add(finding.line)
                self._log.add(_defect(finding))
        return [(row, row_hash) for row, row_hash in rows if row.line not in refused] if refused else rows


class PersonalDataSearch:
    """Sends rows to the child process, and reads findings in a thread to avoid a deadlock of full pipes."""

    def __init__(self) -> None:
        self._child = Child(module_command(CHILD))  # errors are discarded: they could contain a row
        self._answers: SimpleQueue[list[PersonalFinding] | None] = SimpleQueue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, rows: Iterable[Row]) -> None:
        """Errors: `PersonalDataUnchecked`."""
        texts = ([row.line, dict(zip(_fields(row), _texts(row), strict=True))] for row in rows)
        try:
            self._child.send(*texts, END)
        except ChildError:
            raise _failure() from None

    def answer(self) -> list[PersonalFinding]:
        """The findings for the oldest question that has no answer yet. Errors: `PersonalDataUnchecked`."""
        findings = self._answers.get()
        if findings is None:
            raise _failure()
        return findings

    def end(self) -> None:
        self._child.kill()
        self._reader.join()
        self._child.end()

    def _read(self) -> None:
        try:
            with suppress(ChildError):
                while True:
                    self._answers.put(list(self._receive()))
        finally:
            self._answers.put(None)

    def _receive(self) -> Iterator[PersonalFinding]:
        while (message := self._child.receive()) is not END:
            line, field, kind, value = message
            yield PersonalFinding(line, field, PersonalKind(kind), value)


def _failure() -> PersonalDataUnchecked:
    return PersonalDataUnchecked("the search for personal data failed on this file; nothing was stored")


def _texts(row: Row) -> tuple[str, ...]:
    """All texts of the row that are published: its source too."""
    return row.texts if row.source is None else (*row.texts, row.source)


def _fields(row: Row) -> list[str]:
    """Names of the fields of `_texts`."""
    names = [*FIELDS[row.format]]
    if row.format is RowFormat.CHAT:
        names = [f"messages[{index}].content" for index in range(len(row.texts))]
    return names if row.source is None else [*names, "source"]


def _defect(finding: PersonalFinding) -> Defect:
    return Defect(finding.line, "personal_data", f"contains {finding.kind}: {finding.masked}", finding.field)
