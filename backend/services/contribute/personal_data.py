"""Personal data in rows, by the pattern recognisers of presidio, which a child process runs.

In the API's process presidio would load spaCy, and that torch, for no use of theirs here: patterns and
checksums find numbers and addresses of a known form. They do not find names, postal addresses, or what words
alone give away. Most rows cannot hold any and never reach the child, which starts with the first that can.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, cast

from backend.domain.contribution import PersonalData, PersonalFinding, PersonalKind
from backend.domain.dataset import Defect, RowFormat
from backend.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import IO, Self

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
        self._child: Child | None = None
        self._counts: Counter[PersonalKind] = Counter()
        self._first: list[PersonalFinding] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.end()

    def __call__(self, portions: Iterable[Rows]) -> Iterator[Rows]:
        """Of each portion the rows that may be contributed. The child looks at the next one meanwhile.

        Errors: `PersonalDataUnchecked`.
        """
        asked: tuple[Rows, Child | None] | None = None
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

    def _ask(self, rows: Rows) -> Child | None:
        """None where there is nothing to be asked."""
        suspects = [row for row, _ in rows if any(map(MAY_HOLD.search, row.texts))]
        if not suspects:
            return None
        self._child = self._child or Child()
        self._child.ask(suspects)
        return self._child

    def _judged(self, rows: Rows, child: Child | None) -> Rows:
        refused: set[int] = set()
        for finding in () if child is None else child.answer():
            self._counts[finding.kind] += 1
            if len(self._first) < MAX_FINDINGS_SHOWN:
                self._first.append(finding)
            if finding.kind in self._refused:
                refused.add(finding.line)
                self._log.add(_defect(finding))
        return [(row, row_hash) for row, row_hash in rows if row.line not in refused] if refused else rows


class Child:
    """Asked about rows and read by a thread of its own, so that neither side waits for the other to read."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # nothing that it says of a row may reach a log
            encoding="utf-8",
        )
        self._answers: SimpleQueue[list[PersonalFinding] | None] = SimpleQueue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, rows: Iterable[Row]) -> None:
        asked = cast("IO[str]", self.process.stdin)
        try:
            for row in rows:
                asked.write(json.dumps([row.line, dict(zip(_fields(row), row.texts, strict=True))]) + "\n")
            asked.write("\n")
            asked.flush()
        except BrokenPipeError:
            raise _broken() from None

    def answer(self) -> list[PersonalFinding]:
        """To the question that was asked first and not answered yet."""
        findings = self._answers.get()
        if findings is None:
            raise _broken()
        return findings

    def end(self) -> None:
        self.process.kill()
        self._reader.join()
        with suppress(BrokenPipeError):  # what it had not read yet
            self.process.__exit__(None, None, None)

    def _read(self) -> None:
        findings: list[PersonalFinding] = []
        for line in cast("IO[str]", self.process.stdout):
            if line == "\n":
                self._answers.put(findings)
                findings = []
                continue
            number, field, kind, value = json.loads(line)
            findings.append(PersonalFinding(number, field, PersonalKind(kind), value))
        self._answers.put(None)


def _broken() -> PersonalDataUnchecked:
    return PersonalDataUnchecked("the search for personal data broke down on this file; nothing was kept")


def _fields(row: Row) -> list[str]:
    """Where its texts stand."""
    if row.format is RowFormat.CHAT:
        return [f"messages[{place}].content" for place in range(len(row.texts))]
    return ["prompt", "completion"] if row.format is RowFormat.INSTRUCT else ["text"]


def _defect(finding: PersonalFinding) -> Defect:
    return Defect(finding.line, "personal_data", f"holds {finding.kind}: {finding.masked}", finding.field)
