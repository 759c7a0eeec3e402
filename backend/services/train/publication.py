"""Publishes adapter folders and prepares their registration on the chain.

A folder is stored and read back before its job succeeds. The creator's wallet signs and sends the
registration, which is prepared here and recorded once the chain has confirmed it. So a registered version
always has its content in the block store.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from backend.domain.content import ContentCorrupt, cid_digest
from backend.domain.denials import Denied, Subject
from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from backend.domain.hashing import record_argument, version_id
from backend.domain.money import PPM
from backend.domain.receipt import VersionRecord, check_name
from backend.domain.screening import CopiedVersion
from backend.domain.training import JobState
from backend.services.market.denials import check_adapter
from backend.services.train.parents import snapshots_of
from backend.services.train.transitions import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account, Cid, VersionId
    from backend.domain.screening import ScreeningReport
    from backend.domain.training import TrainingJob
    from backend.domain.transactions import PreparedTransaction
    from backend.ports.chain import Chain
    from backend.ports.storage import BlobStore
    from backend.services.market.screening import Screening


_REGISTRY = "AdapterRegistry"
READ_BACK = "read-back"
"""Name of the temporary folder, next to the published one, into which `publish` fetches its CID to
verify it.
"""
UNREGISTERED_FOR = timedelta(days=7)
"""How long an import's folder, or one that a job without success left, is kept if no version names it: free
imports would fill the disk.
"""
REGISTRABLE_FOR = UNREGISTERED_FOR - timedelta(days=1)
"""How long such an import can be registered: a prepared registration then has a day to reach the chain."""


class NotPublished(Conflict):
    """The job has no adapter to register, or not yet."""


class NoBetterThanBase(Conflict):
    """The adapter's loss on the held-out rows is not lower than the base model's."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Name, prices and shares of an adapter. Prices are in token units per million tokens, shares in ppm of
    the charge after the protocol fee; contributors get the rest.
    """

    name: str
    prompt_price: int
    completion_price: int
    operator_ppm: int
    creator_ppm: int

    def __post_init__(self) -> None:
        check_name(self.name)
        for param in ("prompt_price", "completion_price"):
            if not 0 <= getattr(self, param) < 1 << 64:
                raise InvalidInput(f"{param} must be between 0 and 2^64 - 1", param=param)
        for param in ("operator_ppm", "creator_ppm"):
            if not 0 <= getattr(self, param) <= PPM:
                raise InvalidInput(f"{param} must be between 0 and {PPM}", param=param)
        if self.operator_ppm + self.creator_ppm > PPM:
            raise InvalidInput(
                f"operator_ppm and creator_ppm together must be at most {PPM}", param="creator_ppm"
            )


@dataclass(frozen=True, slots=True)
class Registration:
    """A version that will exist once its creator's transaction is confirmed."""

    version_id: VersionId
    record: VersionRecord
    transaction: PreparedTransaction
    screening: ScreeningReport | None


class Publication:
    def __init__(
        self,
        db: Database,
        store: BlobStore,
        chain: Chain,
        screening: Screening,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._db = db
        self._store = store
        self._chain = chain
        self._screening = screening
        self._clock = clock

    def cid_of(self, folder: Path) -> Cid:
        """The CID under which `publish` stores a folder."""
        return self._store.directory_cid(folder)

    def publish(self, folder: Path) -> Cid:
        """Store and pin a folder, and verify what the store returns for its CID, in `READ_BACK`. Idempotent.

        Errors: `ContentCorrupt` if the content differs, `Unavailable`.
        """
        cid, copy = self._store.add_directory(folder), folder.parent / READ_BACK
        shutil.rmtree(copy, ignore_errors=True)  # of a worker that was killed
        try:
            self._store.fetch_folder(cid, copy)
            if _digests(copy) != _digests(folder):
                raise ContentCorrupt(
                    f"the content of {cid} differs from what was stored", details={"cid": cid}
                )
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        return cid

    def discard(self, job_id: str) -> None:
        """Delete the folder of a job that ended without success, unless a version or another job needs it. A
        folder that is denied itself is always deleted, as by the takedown of its version.

        Errors: `Unavailable`; `forget_unneeded` tries again.
        """
        with self._db.read() as tx:
            job = tx.training.get(job_id)
            if job is None or not job.is_over or job.state is JobState.SUCCEEDED or job.cid is None:
                return
        self.discard_folder(job.cid)
        self._drop_cid(job)

    def discard_folder(self, cid: Cid) -> None:
        """`discard` for a folder that a job has no longer: it was trained again, with another result."""
        with self._db.read() as tx:
            is_denied = bool(tx.denials.find([Subject(Denied.CONTENT, cid_digest(cid))]))
            is_needed = tx.training.is_needed(cid)
        if is_denied or not is_needed:
            self._store.forget(cid)

    def record(self, job: TrainingJob, listing: Listing, *, accepts_worse: bool = False) -> VersionRecord:
        """Errors: `NotPublished`; `NoBetterThanBase` unless `accepts_worse`; `ModelDenied` or `ModelWithheld`
        if the adapter was denied since.
        """
        if job.state is JobState.SUCCEEDED and (job.cid is None or self._is_due(job)):
            raise NotPublished(
                f"{job.id} was not registered within {REGISTRABLE_FOR.days} days of its publication, and its "
                f"folder is deleted after {UNREGISTERED_FOR.days}: import the adapter again"
            )
        if job.state is not JobState.SUCCEEDED or job.result is None or job.cid is None:
            raise NotPublished(
                f"{job.id} is {job.state.value}; its adapter can be registered once it has succeeded"
            )
        if job.result.is_better_than_base is False and not accepts_worse:
            raise NoBetterThanBase(
                f"{job.id} has no lower loss than its base model on held-out rows; confirm to list it",
                details=dict(job.result.metrics),
            )
        with self._db.begin() as tx:
            check_adapter(tx, job.result.adapter_digest, "job_id")
            snapshots = snapshots_of(tx, job)
        if not self._store.has(job.cid):
            raise NotPublished(
                f"the folder of {job.id} is not stored any more, as after a takedown: train or import the "
                "adapter again"
            )
        return VersionRecord(
            creator=job.creator,
            name=listing.name,
            adapter_digest=job.result.adapter_digest,
            cid_digest=cid_digest(job.cid),
            base_model=job.result.base_model,
            snapshots=snapshots,
            prompt_price=listing.prompt_price,
            completion_price=listing.completion_price,
            operator_ppm=listing.operator_ppm,
            creator_ppm=listing.creator_ppm,
        )

    def _is_due(self, job: TrainingJob) -> bool:
        """Whether the folder of an import may be deleted before a registration of it is on the chain."""
        if job.imported is None or job.version_id is not None or job.finished_at is None:
            return False
        return self._clock() - job.finished_at > REGISTRABLE_FOR

    def prepare(
        self,
        job_id: str,
        account: Account,
        listing: Listing,
        *,
        accepts_worse: bool = False,
        accepts_copy: bool = False,
    ) -> Registration:
        """Prepare and simulate the registration, for the creator's wallet to sign and send.

        Errors: those of `record`, `NotFound`, `Forbidden`, `Reverted` with the registry's reason;
        `CopiedVersion` unless `accepts_copy`: the same data, options and seed give the same adapter, which
        another creator may have listed.
        """
        job = self._job_of(job_id, account)
        record = self.record(job, listing, accepts_worse=accepts_worse)
        report = self._report(job, record)
        nearest = None if report is None else report.nearest
        if nearest is not None and nearest.is_copy and not accepts_copy:
            raise CopiedVersion(
                f"the adapter of {job_id} is a copy of version {nearest.version} of {nearest.creator}; "
                "confirm to list it nevertheless",
                details=asdict(nearest),
            )
        transaction = self._chain.prepare(_REGISTRY, "register", record_argument(record), sender=account)
        return Registration(version_id(record), record, transaction, report)

    def _report(self, job: TrainingJob, record: VersionRecord) -> ScreeningReport | None:
        """None if the adapter was never inspected."""
        try:
            subject = record.adapter_digest, record.creator, job.config.parent
            return self._screening.report(*subject, has_snapshot=bool(record.snapshots))
        except NotFound:
            return None

    def record_registrations(self) -> int:
        """Set the version of published jobs whose registration is confirmed: their creator's first one with
        these weights and this folder. Return their number.
        """
        now = self._clock()
        num_recorded = 0
        with self._db.begin() as tx:
            for job_id, cid, version, folder in tx.training.registrations():
                job = tx.training.locked(job_id) if cid_digest(cid) == folder else None
                if job is None or job.version_id is not None:
                    continue
                tx.training.save(replace(job, version_id=version))
                tx.training.add_event(job.id, "registered", {"version_id": version}, now)
                num_recorded += 1
        return num_recorded

    def forget_unneeded(self) -> int:
        """Delete the folders that no version names `UNREGISTERED_FOR` after their job ended: of imports, and
        of jobs without success, which are left if a worker is killed while it publishes. Return their number.
        It may be killed at any point.
        """
        with self._db.read() as tx:
            head = tx.chain.cursor()  # first: the versions may then be newer
            if head is None:
                return 0
            # A version may be on the chain and not indexed yet.
            indexed_until = min(self._clock(), datetime.fromtimestamp(head.timestamp, UTC))
            unneeded = tx.training.unneeded(indexed_until - UNREGISTERED_FOR)
            expired = [job for job in unneeded if job.cid and not tx.training.is_named(job.cid)]
        if expired:  # each deletion reads what is stored
            self._store.forget(*{job.cid for job in expired if job.cid is not None})
        for job in expired:
            self._drop_cid(job)
        return len(expired)

    def _drop_cid(self, job: TrainingJob) -> None:
        with self._db.begin() as tx:
            locked = tx.training.locked(job.id)
            if locked is not None:
                tx.training.save(replace(locked, cid=None))

    def _job_of(self, job_id: str, account: Account) -> TrainingJob:
        with self._db.begin() as tx:
            job = tx.training.get(job_id)
        if job is None:
            raise NotFound(f"no training job {job_id}", param="job_id")
        if job.creator != account:
            raise Forbidden(f"only the creator of {job_id} may register its adapter", param="job_id")
        return job


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
