"""Keeps the published answers of the versions whose folders are stored here, for the check of uploads."""

from __future__ import annotations

import logging
import time
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from backend.domain.attribution import ANSWERS_FILE, MAX_ANSWER_TOKENS, MAX_ANSWERS
from backend.domain.content import ContentCorrupt, ContentUnsafe, cid_of
from backend.domain.errors import DomainError, InvalidInput
from backend.services.contribute.answers_file import parse_answers
from backend.services.contribute.repeated_answers import AnswerIndex, shingle_answers, without_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.dataset import Row
    from backend.domain.ids import DatanetId, Hash32, SnapshotId, VersionId
    from backend.domain.published_answers import AnswerShingles
    from backend.domain.receipt import VersionRecord
    from backend.ports.storage import BlobStore

MAX_FILE_BYTES = 16 << 20
"""Files of training have 256 answers to prompts of at most some thousand tokens of eight bytes."""
ROWS_AT_ONCE = 200
STEP_SECONDS = 1.0
RETRY_SECONDS = 600.0
"""Interval at which a version is tried again whose folder or rows could not be read."""

log = logging.getLogger(__name__)


class StoredRows(Protocol):
    def __call__(self, snapshot_id: SnapshotId, /) -> Iterator[Row]:
        """Rows of the snapshot that are stored here."""
        ...


class PublishedAnswers:
    """Answers that repeat a row of the version's snapshots are left out: the adapter learnt them from their
    contributor, who may contribute them again. `decoders`: of tokens to texts, by base model; they return
    None where it has no fast tokenizer.

    A killed process starts the version again that it was reading.
    """

    def __init__(
        self,
        db: Database,
        store: BlobStore,
        stored_rows: StoredRows,
        decoders: Mapping[Hash32, Callable[[Sequence[Sequence[int]]], list[str] | None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db, self._store, self._stored_rows = db, store, stored_rows
        self._decoders, self._clock = decoders, clock
        self._reading: Iterator[None] = iter(())
        self._retry_at: dict[VersionId, float] = {}

    def refresh(self) -> None:
        """Read on for about a second, so that the caller's other work does not wait. Idempotent."""
        until = self._clock() + STEP_SECONDS
        while self._advance() and self._clock() < until:
            pass

    def _advance(self) -> bool:
        """Take one step; whether there was one."""
        for _ in self._reading:
            return True
        now = self._clock()
        self._retry_at = {version: due for version, due in self._retry_at.items() if due > now}
        with self._db.read() as tx:
            unread = tx.published_answers.unread(tuple(self._decoders), tuple(self._retry_at), limit=1)
        for version, record in unread:
            self._retry_at[version] = now + RETRY_SECONDS
            self._reading = self._read(version, record)
        return bool(unread)

    def _read(self, version: VersionId, record: VersionRecord) -> Iterator[None]:
        """Store a version's answers, in steps of some rows. Errors of its folder are logged."""
        try:
            datanets = self._datanets(record)
            answers = self._answers(version, record)
            if answers is None:
                return
            index = AnswerIndex([answers])
            learnt: set[int] = set()
            remaining = self._rows(record)
            while rows := list(islice(remaining, ROWS_AT_ONCE)):
                learnt |= index.repeated_by([answer for row in rows for answer in row.answers])
                yield
        except DomainError as error:
            log.info("the published answers of %s cannot be read now: %s", version, error)
            return
        with self._db.begin() as tx:
            tx.published_answers.put(without_answers(answers, learnt), datanets)

    def _datanets(self, record: VersionRecord) -> list[DatanetId]:
        with self._db.read() as tx:
            found = [tx.chain.snapshot(each) for each in record.snapshots]
        return [snapshot.datanet for snapshot in found if snapshot is not None]

    def _answers(self, version: VersionId, record: VersionRecord) -> AnswerShingles | None:
        """None if there is no tokenizer. A folder without usable answers has none."""
        try:
            decode = self._decoders[record.base_model]
            texts = decode(self._token_ids(record)) if record.snapshots else []
        except (ContentCorrupt, ContentUnsafe, InvalidInput) as error:
            log.warning("the published answers of %s are not compared: %s", version, error)
            texts = []
        return None if texts is None else shingle_answers(version, texts)

    def _token_ids(self, record: VersionRecord) -> list[tuple[int, ...]]:
        cid = cid_of(record.cid_digest)
        size = self._store.names(cid).get(ANSWERS_FILE, 0)
        if size > MAX_FILE_BYTES:
            raise InvalidInput(f"{ANSWERS_FILE} has {size} bytes, more than {MAX_FILE_BYTES}")
        found = parse_answers(self._store.read(cid, ANSWERS_FILE)) if size else []
        answers = [each.answer for each in found]
        if len(answers) > MAX_ANSWERS or max(map(len, answers), default=0) > MAX_ANSWER_TOKENS:
            raise InvalidInput(f"{ANSWERS_FILE} has more or longer answers than training writes")
        return answers

    def _rows(self, record: VersionRecord) -> Iterator[Row]:
        for snapshot in record.snapshots:
            yield from self._stored_rows(snapshot)
