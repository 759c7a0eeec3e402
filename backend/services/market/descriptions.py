"""Keeps what the catalogue shows and finds versions by: their descriptions, cards and usage."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from backend.domain.adapter_files import CARD_FILE
from backend.domain.attribution import INDEX_FILE
from backend.domain.catalogue import CHART_DAYS, USAGE_DAYS, Description
from backend.domain.content import ContentCorrupt, ContentMissing, ContentUnsafe, cid_of
from backend.domain.days import DAY_SECONDS
from backend.domain.errors import Unavailable
from backend.domain.hashing import licence_text
from backend.services.contribute.licences import UnknownLicence, joint_licence
from backend.services.market.agreements import read_agreement
from backend.services.market.cards import MAX_CARD_BYTES, read_card

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from backend.db.unit_of_work import Database
    from backend.domain.catalogue import Agreement, Card
    from backend.domain.ids import DatanetId, Hash32, SnapshotId, VersionId
    from backend.domain.registries import Contribution, RegisteredVersion
    from backend.domain.training import TrainingJob
    from backend.ports.chain_view import ChainView
    from backend.ports.storage import BlobStore

MAX_VERSIONS = 200
"""Most versions that one pass describes, and cards that it looks for."""
MAX_SEARCHED = 8000
"""Most characters of a card that searches look at."""
MAX_RECEIPTS = 20_000
"""Most receipts that one pass counts."""
COUNT_AFTER_SECONDS = 60
"""Receipts are counted once they are this old: those of a sequence may be committed out of order."""
CARD_RETRY = timedelta(minutes=10)
"""Interval at which a folder is looked for that is not stored here."""


class Descriptions:
    """A pass describes what is new. Licences, parents and metrics of a version never change."""

    def __init__(self, db: Database, store: BlobStore, clock: Callable[[], datetime]) -> None:
        self._db, self._store, self._clock = db, store, clock

    def refresh(self) -> None:
        """One pass. Idempotent."""
        self._describe_new()
        self._read_cards()
        self._count_answers()

    def _describe_new(self) -> None:
        now = self._clock()
        with self._db.read() as tx:
            new = tx.catalogue.undescribed(MAX_VERSIONS)
            jobs = tx.training.of_adapters([version.record.adapter_digest for version in new])
            data = _TrainingData(tx.chain)
            found = [_described(data, one, jobs.get(one.record.adapter_digest, ())) for one in new]
        if new:
            with self._db.begin() as tx:
                for version, (description, words) in zip(new, found, strict=True):
                    tx.catalogue.describe(version.id, description, words, now)

    def _read_cards(self) -> None:
        now = self._clock()
        with self._db.read() as tx:
            due = tx.catalogue.without_card(now, MAX_VERSIONS)
        found = {version: self._stated(digest) for version, digest in due}
        if found:
            with self._db.begin() as tx:
                for version, stated in found.items():
                    if stated is None:
                        tx.catalogue.delay_card(version, now + CARD_RETRY)
                    else:
                        card, agreement = stated
                        words = _words(*card.tags, card.text or "")
                        tx.catalogue.put_card(version, card, words, agreement)

    def _stated(self, folder: Hash32) -> tuple[Card, Agreement | None] | None:
        """What a folder that is stored here states: its card, empty if it has none that can be read, and the
        agreements of its attribution index. None if it is not stored here.
        """
        cid = cid_of(folder)
        try:
            if not self._store.has(cid):
                return None
            sizes = self._store.names(cid)
            is_read = 0 < sizes.get(CARD_FILE, 0) <= MAX_CARD_BYTES
            card = read_card(self._store.read(cid, CARD_FILE) if is_read else b"")
            index = self._store.open(cid, INDEX_FILE) if INDEX_FILE in sizes else ()
            return card, read_agreement(index)
        except (ContentMissing, Unavailable):
            return None
        except (ContentCorrupt, ContentUnsafe):
            return read_card(b""), None

    def _count_answers(self) -> None:
        now = int(self._clock().timestamp())
        with self._db.begin() as tx:
            tx.catalogue.count_answers(now - COUNT_AFTER_SECONDS, MAX_RECEIPTS)
            tx.catalogue.forget_usage(usage_since(self._clock(), CHART_DAYS))


def usage_since(now: datetime, num_days: int = USAGE_DAYS) -> int:
    """First (since 1970-01-01) of the `num_days` days that end with today."""
    return int(now.timestamp()) // DAY_SECONDS - num_days + 1


class _TrainingData:
    """Contributions of snapshots. Many versions have the same ones: each datanet is read once."""

    def __init__(self, chain: ChainView) -> None:
        self._chain = chain
        self._contributions: dict[DatanetId, Sequence[Contribution]] = {}

    def datanet_names(self, snapshots: Sequence[SnapshotId]) -> list[str]:
        found = [self._chain.snapshot(each) for each in snapshots]
        datanets = [self._chain.datanet(one.datanet) for one in found if one is not None]
        return [datanet.name for datanet in datanets if datanet is not None]

    def accepted(self, snapshot_id: SnapshotId) -> list[Contribution]:
        """The snapshot's accepted contributions."""
        snapshot = self._chain.snapshot(snapshot_id)
        if snapshot is None:
            return []
        if snapshot.datanet not in self._contributions:
            self._contributions[snapshot.datanet] = self._chain.contributions(snapshot.datanet)
        accepted = set(snapshot.accepted)
        return [one for one in self._contributions[snapshot.datanet] if one.index in accepted]


def _described(
    data: _TrainingData, version: RegisteredVersion, jobs: Sequence[TrainingJob]
) -> tuple[Description, str]:
    """`jobs`: those of this installation that made these weights. Returns also what it is found by."""
    record = version.record
    contributions = [one for each in record.snapshots for one in data.accepted(each)]
    own = next((job for job in jobs if job.creator == record.creator), None)
    stated = own.imported if own is not None and not record.snapshots else None
    description = Description(
        licence=_conjunction({one.licence for one in contributions}) if stated is None else stated.licence,
        parents=_parents(jobs[0]) if jobs else None,
        num_contributions=len(contributions),
        licences=tuple(sorted(_texts(contributions))),
        metrics=jobs[0].result.metrics if jobs and jobs[0].result is not None else {},
    )
    return description, _words(*data.datanet_names(record.snapshots))


def _parents(job: TrainingJob) -> tuple[VersionId, ...]:
    return () if job.imported is not None or job.config.parent is None else (job.config.parent,)


def _texts(contributions: Sequence[Contribution]) -> set[str]:
    """The licences that can be read: the contract does not check them."""
    texts = {licence_text(one.licence) for one in contributions}
    return {text for text in texts if text and text.isprintable()}


def _conjunction(words: set[Hash32]) -> str | None:
    """None if one of them is too long for a word or no SPDX expression, as the contract checks neither, or if
    they are too long together.
    """
    texts = [licence_text(word) for word in sorted(words)]
    if not texts or None in texts:
        return None
    try:
        return joint_licence(text for text in texts if text is not None)
    except UnknownLicence:
        return None


def _words(*texts: str) -> str:
    return "\n".join(texts).casefold()[:MAX_SEARCHED]
