"""Personal data in rows, by the pattern recognisers of presidio, which a child process runs.

In the API's process presidio would load spaCy, and that torch, for no use of theirs here: patterns and
checksums find numbers and addresses of a known form. They do not find names, postal addresses, or what words
alone give away. Most rows cannot hold any and never reach the child, which starts with the first that can.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from backend.domain.contribution import PersonalData, PersonalFinding, PersonalKind
from backend.domain.dataset import Defect, RowFormat
from backend.domain.errors import Unavailable
from backend.processes.child import Child, ChildError, module_command
from backend.services.contribute.personal_data_child import END

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Self

    from backend.domain.dataset import Row
    from backend.domain.ids import Hash32
    from backend.services.contribute.receive import DefectLog

    Rows = Sequence[tuple[Row, Hash32]]

CHILD = "backend.services.contribute.personal_data_child"
MAX_FINDINGS_SHOWN = 100
MAY_HOLD = re.compile(r"[\d@]|:[0-9A-Fa-f]{0,4}:")
"""Every kind has a digit, an @, or (IPv6 in letters alone) two colons: a text without them holds none."""


class PersonalDataUnchecked(Unavailable):
    """The search for personal data broke down on this file; nothing of it was kept."""


class PersonalDataScreen:
    """Of one upload. Rows with a kind of `refused` are held back as defects; others are only reported."""

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

    def __call__(self, portions: Iterable[Rows]) -> Iterator[Rows]:
        """Of each portion the rows that may be contributed. The child looks at the next one meanwhile.

        Errors: `PersonalDataUnchecked`.
        """
        asked: tuple[Rows, PersonalDataSearch | None] | None = None
        for rows in portions:
            following = rows, self._ask(rows)
            if asked is not None:
                yield self._judged(*asked)
            asked = following
        if asked is not None:
            yield self._judged(*asked)

    def found(self) -> PersonalData:
        """So far."""
        return PersonalData(dict(self._counts), tuple(self._first))

    def _ask(self, rows: Rows) -> PersonalDataSearch | None:
        """None where there is nothing to be asked."""
        suspects = [row for row, _ in rows if any(map(MAY_HOLD.search, row.texts))]
        if not suspects:
            return None
        self._search = self._search or PersonalDataSearch()
        self._search.ask(suspects)
        return self._search

    def _judged(self, rows: Rows, search: PersonalDataSearch | None) -> Rows:
        refused: set[int] = set()
        for finding in () if search is None else search.answer():
            self._counts[finding.kind] += 1
            if len(self._first) < MAX_FINDINGS_SHOWN:
                self._first.append(finding)
            if finding.kind in self._refused:
                refused.add(finding.line)
                self._log.add(_defect(finding))
        return [(row, row_hash) for row, row_hash in rows if row.line not in refused] if refused else rows


class PersonalDataSearch:
    """Sends rows to the child process and reads its findings in a thread, so that neither side waits for the
    other to read.
    """

    def __init__(self) -> None:
        self._child = Child(module_command(CHILD))  # its errors are discarded: they could show a row
        self._answers: SimpleQueue[list[PersonalFinding] | None] = SimpleQueue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, rows: Iterable[Row]) -> None:
        """Errors: `PersonalDataUnchecked`."""
        texts = ([row.line, dict(zip(_fields(row), row.texts, strict=True))] for row in rows)
        try:
            self._child.send(*texts, END)
        except ChildError:
            raise _broken() from None

    def answer(self) -> list[PersonalFinding]:
        """The findings for the oldest question that has no answer yet. Errors: `PersonalDataUnchecked`."""
        findings = self._answers.get()
        if findings is None:
            raise _broken()
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


def _broken() -> PersonalDataUnchecked:
    return PersonalDataUnchecked("the search for personal data broke down on this file; nothing was kept")


def _fields(row: Row) -> list[str]:
    """Where its texts stand."""
    if row.format is RowFormat.CHAT:
        return [f"messages[{place}].content" for place in range(len(row.texts))]
    return ["prompt", "completion"] if row.format is RowFormat.INSTRUCT else ["text"]


def _defect(finding: PersonalFinding) -> Defect:
    return Defect(finding.line, "personal_data", f"holds {finding.kind}: {finding.masked}", finding.field)
