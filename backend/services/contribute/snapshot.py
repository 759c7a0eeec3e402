"""Freezes snapshots of a datanet on the chain, and reads their rows from the block store."""

from __future__ import annotations

import tempfile
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

from backend.domain.content import ContentCorrupt, ContentMissing, cid_of
from backend.domain.contribution import is_withdrawn
from backend.domain.dataset import Row, split_lines
from backend.domain.errors import Conflict, NotFound
from backend.domain.hashing import licence_text, licence_word
from backend.domain.streams import at_most
from backend.ports.storage import fetch_nothing
from backend.services.contribute.read_rows import RowReader
from backend.services.contribute.staging import DATA_FILE, MANIFEST_FILE, stated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account, DatanetId, SnapshotId
    from backend.domain.registries import Contribution, Snapshot
    from backend.ports.chain import Chain
    from backend.ports.storage import BlobStore, FetchFolder
    from backend.services.transactions.relays import Relays


T = TypeVar("T")
REGISTRY = "DatasetRegistry"
MAX_CONTRIBUTION_BYTES = 4 << 30
"""Limit of what is fetched for one contribution of another operator."""
SPOOL_BYTES = 8 << 20
READ_BYTES = 1 << 16


class ContributionWithdrawn(Conflict):
    """A contribution of the snapshot was withdrawn. Its rows are not used for further training."""


@dataclass(frozen=True, slots=True)
class PendingSnapshot:
    """A requested snapshot, which exists once its transaction is confirmed."""

    snapshot_id: SnapshotId
    transaction_id: int


class Snapshots:
    """Implements `backend.ports.training.SnapshotRows`.

    `fetch_folder` fetches contributions of other operators into the store.
    """

    def __init__(
        self,
        db: Database,
        store: BlobStore,
        chain: Chain,
        relays: Relays,
        scratch: Path,
        fetch_folder: FetchFolder = fetch_nothing,
    ) -> None:
        """`scratch`: folder for rows while they are read."""
        self._db = db
        self._store = store
        self._chain = chain
        self._relays = relays
        self._scratch = scratch
        self._fetch_folder = fetch_folder

    def freeze(self, account: Account, datanet: DatanetId, count: int) -> PendingSnapshot:
        """Freeze the first `count` admitted contributions with their present acceptance on the chain, as
        `account` asks.

        A repeated request is the same transaction, unless that one failed. Errors: those of `Relays.relay`;
        `Reverted` has the registry's reason (`InvalidCount`, `NothingAccepted`).
        """
        snapshot_id, _accepted_hash = self._chain.call(REGISTRY, "previewSnapshot", datanet, count)
        call, args, key = (REGISTRY, "freeze"), [str(datanet), str(count)], f"freeze:{snapshot_id}"
        sent = self._relays.relay(account, call, args, key)
        return PendingSnapshot(snapshot_id, sent)

    def get(self, snapshot_id: SnapshotId) -> Snapshot:
        """Errors: `NotFound` unless the snapshot is on the chain."""
        with self._db.read() as tx:
            return _snapshot(tx, snapshot_id)

    def newest(self, datanet: DatanetId, limit: int) -> list[Snapshot]:
        """Up to `limit` of the datanet's snapshots on the chain, newest first."""
        with self._db.read() as tx:
            return tx.chain.newest_snapshots(datanet, limit)

    def rows(self, snapshot_id: SnapshotId) -> Iterator[tuple[int, dict[str, Any]]]:
        """(contribution index, row) of all accepted contributions, in order of indices and lines.

        A contribution's rows are yielded only after its content hash was verified.
        Errors: `NotFound`, `ContributionWithdrawn`, `ContentMissing`, `ContentCorrupt`, `Unavailable`.
        """
        for index, contribution in self._accepted(snapshot_id).items():
            for row in self._read(contribution):
                yield index, row.value

    def rows_at(self, snapshot_id: SnapshotId, places: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """As in the port. Contributions without any of the rows are not fetched, and other rows not parsed.

        Errors: those of `rows`.
        """
        start = first = 0
        for index, contribution in self._accepted(snapshot_id).items():
            last = bisect_left(places, start + contribution.num_rows)
            lines = [place - start for place in places[first:last]]
            start, first = start + contribution.num_rows, last
            _refuse_withdrawn(contribution)
            for row in self._read(contribution, lines) if lines else ():
                yield index, row.value

    def stored_rows(self, snapshot_id: SnapshotId) -> Iterator[Row]:
        """Rows of the accepted contributions that are stored here; the others are left out.

        Errors: `NotFound`, `Unavailable`.
        """
        for contribution in self._accepted(snapshot_id).values():
            if not self._store.has(cid_of(contribution.cid_digest)):
                continue  # an IPFS daemon would search for it
            with suppress(ContributionWithdrawn, ContentMissing, ContentCorrupt):
                yield from self._read(contribution)

    def licences(self, snapshot_id: SnapshotId) -> list[str]:
        """Distinct SPDX expressions of the accepted contributions, sorted."""
        return sorted({self._licence(contribution) for contribution in self._accepted(snapshot_id).values()})

    def manifest(self, snapshot_id: SnapshotId) -> dict[str, Any]:
        """Everything needed to fetch and verify the snapshot's rows; identical on every machine."""
        snapshot = self.get(snapshot_id)
        return {
            "format": "loraledger-snapshot-1",
            "snapshotId": snapshot.id,
            "datanetId": snapshot.datanet,
            "count": snapshot.count,
            "acceptedHash": snapshot.accepted_hash,
            "contributions": [
                {
                    "index": index,
                    "contributor": contribution.contributor,
                    "contentHash": contribution.content_hash,
                    "cid": cid_of(contribution.cid_digest),
                    "licence": self._licence(contribution),
                    "rows": contribution.num_rows,
                }
                for index, contribution in self._accepted(snapshot_id).items()
            ],
        }

    def _accepted(self, snapshot_id: SnapshotId) -> dict[int, Contribution]:
        """The accepted contributions by index, rising."""
        with self._db.read() as tx:
            snapshot = _snapshot(tx, snapshot_id)
            recorded = {c.index: c for c in tx.chain.contributions(snapshot.datanet)}
        return {index: recorded[index] for index in snapshot.accepted}

    def _read(self, contribution: Contribution, lines: Sequence[int] | None = None) -> Iterator[Row]:
        """The contribution's rows, or those of these lines, counted from 0 and rising."""
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(self._scratch)) as spool:
            file = cast("BinaryIO", spool)
            self._fetch(contribution, file)
            numbered = enumerate(split_lines(iter(lambda: file.read(READ_BYTES), b"")), start=1)
            yield from _validated_rows(contribution, numbered if lines is None else _pick(numbered, lines))

    def _fetch(self, contribution: Contribution, file: BinaryIO) -> None:
        digest = sha256()
        _refuse_withdrawn(contribution)
        too_large = _corrupt(contribution, f"its rows have more than {MAX_CONTRIBUTION_BYTES} bytes")
        for chunk in at_most(MAX_CONTRIBUTION_BYTES, self._open(contribution, DATA_FILE), too_large):
            digest.update(chunk)
            file.write(chunk)
        if "0x" + digest.hexdigest() != contribution.content_hash:
            raise _corrupt(contribution, "its rows do not have the hash on the chain")
        file.seek(0)

    def _open(self, contribution: Contribution, name: str) -> Iterator[bytes]:
        cid = cid_of(contribution.cid_digest)
        self._fetch_folder(cid, MAX_CONTRIBUTION_BYTES)
        return self._store.open(cid, name)

    def _licence(self, contribution: Contribution) -> str:
        """The chain has a text of up to 32 characters, or the hash of a longer one in the folder."""
        text = licence_text(contribution.licence)
        if text is not None:
            return text
        if is_withdrawn(contribution):
            return contribution.licence  # the folder was deleted; only the hash is left
        licence = stated(self._open(contribution, MANIFEST_FILE), "licence")
        is_text = isinstance(licence, str) and licence.isascii()
        if not is_text or licence_word(licence) != contribution.licence:
            raise _corrupt(contribution, "its manifest states another licence than the chain")
        return str(licence)


def _validated_rows(
    contribution: Contribution, numbered: Iterable[tuple[int, bytes | None]]
) -> Iterator[Row]:
    """Validate rows again: the operator that recorded them may not have done so."""
    reader = RowReader()
    for number, line in numbered:
        row = reader.read(number, line)
        if not isinstance(row, Row):
            raise _corrupt(contribution, f"line {number}: {row[0].message}")
        yield row


def _pick(lines: Iterator[T], places: Iterable[int]) -> Iterator[T]:
    """The lines at rising places, as far as there are any."""
    num_passed = 0
    for place in places:
        yield from islice(lines, place - num_passed, place - num_passed + 1)
        num_passed = place + 1


def _refuse_withdrawn(contribution: Contribution) -> None:
    if is_withdrawn(contribution):
        where = f"contribution {contribution.index} of datanet {contribution.datanet}"
        raise ContributionWithdrawn(f"{where} was withdrawn: freeze a new snapshot", "snapshot_id")


def _snapshot(tx: UnitOfWork, snapshot_id: SnapshotId) -> Snapshot:
    snapshot = tx.chain.snapshot(snapshot_id)
    if snapshot is None:
        raise NotFound(f"no snapshot {snapshot_id}", "snapshot_id")
    return snapshot


def _corrupt(contribution: Contribution, reason: str) -> ContentCorrupt:
    where = f"contribution {contribution.index} of datanet {contribution.datanet}"
    return ContentCorrupt(f"{where}: {reason}", details={"cid": cid_of(contribution.cid_digest)})
