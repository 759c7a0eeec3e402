"""Imports adapters that were trained elsewhere: uploaded by transfers, then validated, published and
registered like those trained here.

Only two files are accepted. The training data of such an adapter cannot be proven, so its record names no
snapshot, and the contributors' share of its income goes to the treasury.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from backend.domain.adapter_files import CARD_FILE, CONFIG_FILE, MAX_BYTES, WEIGHTS_FILE, code_in
from backend.domain.attribution import INDEX_FILE
from backend.domain.errors import Conflict, InvalidInput, NotFound
from backend.domain.ids import ZERO_HASH, SnapshotId
from backend.domain.training import About, ImportedAdapter, JobState, Lease, TrainingConfig, TrainingJob
from backend.services.contribute.canonical_rows import UploadTooLarge
from backend.services.contribute.licences import parse_licence
from backend.services.contribute.transfers import TransferUnfinished
from backend.services.train.transitions import enqueue, finish, utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account, Hash32
    from backend.domain.training import JobEvent
    from backend.services.contribute.transfers import Transfers
    from backend.services.train.transitions import Clock

SAYS_NOTHING = About()
MAX_PENDING = 4
"""Unfinished imports per creator."""
COPIES = 3
"""Of an import's files while it is published: the job's, the adapter's, and that of the block store."""


class UnexpectedFile(InvalidInput):
    """A file that is not part of an imported adapter; `param` is its name."""


class FileMissing(InvalidInput):
    """One of the two files is missing; `param` is its name."""


class TooManyAdapters(Conflict):
    """The creator has the maximum number of unfinished imports."""


class ImportedAdapters:
    """Imports, as their creators use them. Only the creator sees an adapter before it is registered."""

    def __init__(self, db: Database, transfers: Transfers, clock: Clock = utc_now) -> None:
        self._db = db
        self._transfers = transfers
        self._clock = clock

    def create(
        self,
        creator: Account,
        licence: str,
        transfers: Mapping[str, str],
        about: About = SAYS_NOTHING,
        base: Hash32 | None = None,
    ) -> TrainingJob:
        """Queue validation and publication. `transfers` maps file names to completed transfers. `base`:
        digest of the base model that the adapter is for; None: of the first one.

        Errors: `UnknownLicence`, `UnexpectedFile`, `FileMissing`, `NotFound` for a transfer,
        `TransferUnfinished`, `UploadTooLarge`, `DiskFull`, `TooManyAdapters`.
        """
        imported = ImportedAdapter(parse_licence(licence), dict(transfers), about)
        _check_names(transfers)
        sizes = [self._check_transfer(creator, name, transfer_id) for name, transfer_id in transfers.items()]
        self._transfers.space.require(COPIES * sum(sizes))
        now = self._clock()
        job = TrainingJob(
            id=f"adapter-{uuid.uuid4().hex}",
            creator=creator,
            snapshot_id=SnapshotId(ZERO_HASH),
            config=TrainingConfig(),
            state=JobState.VALIDATING,
            created_at=now,
            lease=Lease(None, now),
            imported=imported,
            base=base,
        )
        with self._db.begin() as tx:
            newest = tx.training.find(creator, 100, are_imported=True)
            if sum(not one.is_over for one in newest) >= MAX_PENDING:
                raise TooManyAdapters(f"{MAX_PENDING} adapters are not finished: wait for one or cancel it")
            tx.training.add(job)
            job = enqueue(tx, job, now)
            tx.training.add_event(job.id, "state", {"state": job.state.value}, now)
        return job

    def get(self, adapter_id: str, creator: Account | None = None) -> TrainingJob:
        """Errors: `NotFound`, also if `creator` is given and another account's."""
        with self._db.read() as tx:
            return _require_import(tx.training.get(adapter_id), adapter_id, creator)

    def list(self, creator: Account, limit: int = 50, after: str | None = None) -> Sequence[TrainingJob]:
        """Imports after `after`, newest first. Errors: `InvalidInput` if there is no such import."""
        with self._db.read() as tx:
            return tx.training.find(creator, limit, after, are_imported=True)

    def events(
        self, adapter_id: str, creator: Account, after: int = 0, limit: int = 500
    ) -> Sequence[JobEvent]:
        """Events after the one numbered `after`, oldest first. Errors: `NotFound`."""
        with self._db.read() as tx:
            _require_import(tx.training.get(adapter_id), adapter_id, creator)
            return tx.training.events(adapter_id, after, limit)

    def cancel(self, adapter_id: str, creator: Account) -> TrainingJob:
        """Cancel an import; its worker stops within seconds. Idempotent.

        Errors: `NotFound`, `Conflict` once it succeeded or failed.
        """
        with self._db.begin() as tx:
            job = _require_import(tx.training.locked(adapter_id), adapter_id, creator)
            if job.state is JobState.CANCELLED:
                return job
            if job.is_over:
                raise Conflict(f"{adapter_id} has already {job.state.value}", param="adapter_id")
            return finish(tx, job, JobState.CANCELLED, self._clock())

    def _check_transfer(self, creator: Account, name: str, transfer_id: str) -> int:
        """The file's bytes."""
        transfer = self._transfers.get(creator, transfer_id)
        if transfer.num_bytes > MAX_BYTES[name]:
            details = {"max_bytes": MAX_BYTES[name]}
            message = f"{name} has {transfer.num_bytes} bytes, at most {MAX_BYTES[name]} are accepted"
            raise UploadTooLarge(message, name, details)
        if transfer.offset < transfer.num_bytes:
            missing = transfer.num_bytes - transfer.offset
            raise TransferUnfinished(f"{missing} bytes of {name} are not uploaded yet", name)
        return transfer.num_bytes


def _check_names(transfers: Mapping[str, str]) -> None:
    for name in sorted(transfers.keys() - MAX_BYTES.keys()):
        raise UnexpectedFile(f"{name[:100]!r} is not accepted: {_reason(name)}", name[:100])
    for name in MAX_BYTES:
        if name not in transfers:
            raise FileMissing(f"{name} is missing", name)


def _reason(name: str) -> str:
    if name == INDEX_FILE:
        return (
            "contributions to an imported adapter cannot be proven; the contributors' share of its income "
            "goes to the treasury"
        )
    if name == CARD_FILE:
        return "a model card is generated"
    return code_in(name) or f"an adapter consists of {CONFIG_FILE} and {WEIGHTS_FILE} only"


def _require_import(job: TrainingJob | None, adapter_id: str, creator: Account | None) -> TrainingJob:
    if job is None or job.imported is None or creator not in {None, job.creator}:
        raise NotFound(f"no adapter {adapter_id[:64]}", param="adapter_id")
    return job
