"""Adapters that were trained elsewhere: brought by transfers, then inspected, published and registered as
those that were trained here.

Two files are taken and nothing else. Whose data such an adapter was made from cannot be proven, so it names
no snapshot, and what its contributors would earn goes to the treasury.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from backend.domain.attribution import INDEX_FILE
from backend.domain.errors import Conflict, InvalidInput, NotFound
from backend.domain.ids import ZERO_HASH, SnapshotId
from backend.domain.training import ImportedAdapter, JobState, Lease, TrainingConfig, TrainingJob
from backend.services.contribute.licences import parse_licence
from backend.services.contribute.receive import UploadTooLarge
from backend.services.contribute.transfers import TransferUnfinished
from backend.services.market.adapter_folders import MAX_ADAPTER_BYTES
from backend.services.train.transitions import finish, offer, utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account
    from backend.domain.training import JobEvent
    from backend.services.contribute.transfers import Transfers
    from backend.services.train.transitions import Clock

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
MAX_BYTES = {CONFIG_FILE: 1 << 20, WEIGHTS_FILE: MAX_ADAPTER_BYTES}
"""Of each file that is taken, by its name."""
MAX_UNDER_WAY = 4
"""Of one creator at a time."""


class FileNotTaken(InvalidInput):
    """A file that does not belong to an adapter from elsewhere; `param` is its name."""


class FileMissing(InvalidInput):
    """One of the two files; `param` is its name."""


class TooManyAdapters(Conflict):
    """As many as a creator may have under way: wait for one, or cancel it."""


class ImportedAdapters:
    """The creator's side, who alone sees them before they are registered."""

    def __init__(self, db: Database, transfers: Transfers, clock: Clock = utc_now) -> None:
        self._db = db
        self._transfers = transfers
        self._clock = clock

    def create(self, creator: Account, licence: str, transfers: Mapping[str, str]) -> TrainingJob:
        """Have the files inspected and published; `transfers` by the files' names, all their bytes there.

        Errors: `UnknownLicence`, `FileNotTaken`, `FileMissing`, `NotFound` for a transfer,
        `TransferUnfinished`, `UploadTooLarge`, `TooManyAdapters`.
        """
        imported = ImportedAdapter(parse_licence(licence), dict(transfers))
        _check_names(transfers)
        for name, transfer_id in transfers.items():
            self._check_transfer(creator, name, transfer_id)
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
        )
        with self._db.begin() as tx:
            newest = tx.training.find(creator, 100, are_foreign=True)
            if sum(not one.is_over for one in newest) >= MAX_UNDER_WAY:
                raise TooManyAdapters(f"{MAX_UNDER_WAY} adapters are under way: wait for one, or cancel it")
            tx.training.add(job)
            job = offer(tx, job, now)
            tx.training.add_event(job.id, "state", {"state": job.state.value}, now)
        return job

    def get(self, adapter_id: str, creator: Account | None = None) -> TrainingJob:
        """Errors: `NotFound`, also for somebody else's if `creator` is given."""
        with self._db.read() as tx:
            return _known(tx.training.get(adapter_id), adapter_id, creator)

    def list(self, creator: Account, limit: int = 50, after: str | None = None) -> Sequence[TrainingJob]:
        """Newest first, those that follow on `after`. Errors: `InvalidInput` if that is none of them."""
        with self._db.read() as tx:
            return tx.training.find(creator, limit, after, are_foreign=True)

    def events(
        self, adapter_id: str, creator: Account, after: int = 0, limit: int = 500
    ) -> Sequence[JobEvent]:
        """What happened since the event `after`, oldest first. Errors: `NotFound`."""
        with self._db.read() as tx:
            _known(tx.training.get(adapter_id), adapter_id, creator)
            return tx.training.events(adapter_id, after, limit)

    def cancel(self, adapter_id: str, creator: Account) -> TrainingJob:
        """Its worker stops within seconds; again is harmless. Errors: `NotFound`, `Conflict` once it is
        over.
        """
        with self._db.begin() as tx:
            job = _known(tx.training.locked(adapter_id), adapter_id, creator)
            if job.state is JobState.CANCELLED:
                return job
            if job.is_over:
                raise Conflict(f"{adapter_id} has {job.state.value} already", param="adapter_id")
            return finish(tx, job, JobState.CANCELLED, self._clock())

    def _check_transfer(self, creator: Account, name: str, transfer_id: str) -> None:
        transfer = self._transfers.get(creator, transfer_id)
        if transfer.num_bytes > MAX_BYTES[name]:
            most = {"max_bytes": MAX_BYTES[name]}
            message = f"{name} has {transfer.num_bytes} bytes, at most {MAX_BYTES[name]} are taken"
            raise UploadTooLarge(message, name, most)
        if transfer.offset < transfer.num_bytes:
            missing = transfer.num_bytes - transfer.offset
            raise TransferUnfinished(f"{missing} bytes of {name} are still to come", name)


def _check_names(transfers: Mapping[str, str]) -> None:
    for name in sorted(transfers.keys() - MAX_BYTES.keys()):
        raise FileNotTaken(f"{name[:100]!r} is not taken: {_why_not(name)}", name[:100])
    for name in MAX_BYTES:
        if name not in transfers:
            raise FileMissing(f"{name} is missing", name)


def _why_not(name: str) -> str:
    if name == INDEX_FILE:
        return (
            "what it says of contributions cannot be proven for an adapter that was trained elsewhere; "
            "the contributors' part of what it earns goes to the treasury"
        )
    if name == "README.md":
        return "a card is written here"
    if name.lower().endswith((".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")):
        return "pickle can run code when it is read; save the adapter as safetensors"
    return f"an adapter is {CONFIG_FILE} and {WEIGHTS_FILE}, nothing else"


def _known(job: TrainingJob | None, adapter_id: str, creator: Account | None) -> TrainingJob:
    if job is None or job.imported is None or creator not in {None, job.creator}:
        raise NotFound(f"no adapter {adapter_id[:64]}", param="adapter_id")
    return job
