"""Contributions, from a contributor's bytes to their signed transaction.

The chain decides where a contribution stands; an `Upload` only remembers how far it has come. Each step may
be repeated after a crash: blocks are content-addressed, queued transactions have keys, and what changes
together is written in one transaction. What follows on the chain is in `backend.services.curate`.
"""

from __future__ import annotations

import errno
import secrets
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backend.domain.content import ContentCorrupt
from backend.domain.contribution import WITHDRAWAL, Report, Ticket, Upload, UploadState
from backend.domain.errors import Conflict, DiskFull, Forbidden, InvalidInput, NotFound
from backend.domain.hashing import TypedDomain
from backend.services.contribute.licences import check_compatible, parse_licence
from backend.services.contribute.message import signed_contribution, signing_digest, typed_data
from backend.services.contribute.receive import read_defects
from backend.services.contribute.staging import DATA_FILE
from backend.services.contribute.terms import accepted_licence
from backend.services.contribute.uploads import claim_rows, current, drop_content, drop_rows, release_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.contribution import Copy
    from backend.domain.dataset import Defect
    from backend.domain.ids import Account, DatanetId
    from backend.ports.chain import Chain
    from backend.ports.storage import BlobStore
    from backend.services.contribute.check_upload import UploadCheck
    from backend.services.transactions.consent import Consent


REGISTRY = "DatasetRegistry"
SIGNING_SECONDS = 3600
"""How long a contributor may take to sign."""
MAX_NAME_CHARACTERS = 100


class WrongSignature(InvalidInput):
    """Not the contributor's signature of the typed data handed out last."""


class SignatureExpired(Conflict):
    """Signed too late. Ask for the typed data again and sign again."""


class CopiedRows(Conflict):
    """Since the check, another upload claimed rows of this one; `details["copies"]` says whose."""


class Contributions:
    """`lane`: the operator's account that relays."""

    def __init__(
        self,
        db: Database,
        store: BlobStore,
        chain: Chain,
        consent: Consent,
        check: UploadCheck,
        lane: Account,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._store = store
        self._chain = chain
        self._consent = consent
        self._checking = check
        self._staging = check.staging
        self._lane = lane
        self._now = now

    def upload(
        self,
        account: Account,
        datanet: DatanetId,
        name: str,
        stream: Iterable[bytes],
        licence: str,
        *,
        accepts_partial: bool = False,
    ) -> Upload:
        """Check JSONL or Parquet: a draft if it is sound, else an invalid upload whose report says why. With
        `accepts_partial` a draft of the sound rows alone, if there is any; the report says what it lacks.

        Errors, and then nothing is kept: `NotFound` (datanet), `UnknownLicence`, `LicenceConflict`,
        `UnreadableTerms`, `InvalidInput` (name), `DiskFull`, those of `receive`, and what the stream raises.
        """
        stated = parse_licence(licence)
        accepted = self._accepted_licence(datanet)
        if accepted is not None:
            check_compatible(stated, accepted)
        report = Report(stated, accepted)
        created_at = datetime.fromtimestamp(self._now(), UTC)
        upload_id = f"upload-{secrets.token_hex(8)}"
        upload = Upload(upload_id, account, datanet, _title(name), UploadState.CHECKING, created_at, report)
        with self._db.begin() as tx:
            tx.contributions.add(upload)
        try:
            return self._check(upload, stream, accepts_partial=accepts_partial)
        except BaseException as error:
            self._staging.drop(upload.id)
            drop_rows(self._db, upload.id)
            with self._db.begin() as tx:
                tx.contributions.remove(upload.id)
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise DiskFull("there is no room left for the upload here; nothing was kept") from error
            raise

    def status(self, upload_id: str) -> Upload:
        """The upload as the chain has it now. Errors: `NotFound`."""
        with self._db.read() as tx:
            return current(tx, _existing(tx, upload_id))

    def find(
        self,
        account: Account | None = None,
        datanet: DatanetId | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Upload]:
        """Newest first, as last seen on the chain; those that follow on upload `after`.

        Errors: `InvalidInput` if that is none of them.
        """
        with self._db.read() as tx:
            return tx.contributions.find(account, datanet, limit, after)

    def content(self, upload_id: str) -> Iterator[bytes]:
        """The canonical rows. Errors: `NotFound`, also where they are gone; those of `BlobStore.open`."""
        report = self.status(upload_id).report
        staged = self._staging.data(upload_id)
        if staged.exists():
            return _chunks(staged)
        if report.cid is None:
            raise NotFound(f"the rows of upload {upload_id} were not kept", "upload_id")
        return self._store.open(report.cid, DATA_FILE)

    def defects(self, upload_id: str) -> Iterator[Defect]:
        """What is wrong with an upload that is refused or goes without some lines: format first, then copies,
        each by line; the first 10,000.
        """
        self.status(upload_id)
        return read_defects(self._staging.defects(upload_id))

    def typed_data(self, upload_id: str, account: Account | None = None) -> dict[str, Any]:
        """The EIP-712 object that the contributor's wallet signs (`eth_signTypedData_v4`).

        The same one as before while it can still be used. Errors: `NotFound`; `Conflict` unless the upload is
        a draft; `Forbidden` if `account` is given and is not its contributor.
        """
        upload = self.status(upload_id)
        if account not in {None, upload.account}:
            raise Forbidden("only its contributor signs an upload", "upload_id")
        nonce = int(self._chain.call(REGISTRY, "nonces", upload.account))
        instant = self._instant()
        with self._db.begin() as tx:
            draft = _draft(tx, upload_id)
            nonce = max(nonce, tx.contributions.next_nonce(upload.account))
            draft = replace(draft, ticket=_ticket(draft, nonce, instant))
            tx.contributions.save(draft)
        return typed_data(self._domain, draft)

    def submit(self, upload_id: str, signature: str) -> Upload:
        """Publish the blocks and relay the contributor's signature. Submitting again changes nothing.

        Errors, and it stays as it is: `NotFound`; `Conflict` unless a draft whose typed data was asked for;
        `WrongSignature`; `SignatureExpired`; `CopiedRows`; `Unavailable` if the store cannot be reached.
        """
        upload = self.status(upload_id)
        if upload.transaction_id is not None:
            return upload
        self._verify(upload, signature)
        cid = self._store.add_folder(self._staging.published_folder(upload))
        if cid != upload.report.cid:
            raise ContentCorrupt(f"the rows of upload {upload.id} changed on disk: upload them again")
        try:
            self._claim(upload_id)
            return self._relay(upload, signature)
        except BaseException:
            release_rows(self._db, upload_id)
            raise

    def withdraw(self, upload_id: str) -> Upload:
        """Take it back: its content goes from here at once, and no later snapshot has it once the curators'
        decision is on the chain. Earlier snapshots and what was earned stay. Again, it changes nothing.

        Errors: `NotFound`; `Conflict` while it is checked or on its way to the chain; `Unavailable` if the
        store cannot be reached, and then its content goes later.
        """
        with self._db.begin() as tx:
            locked = tx.contributions.locked(_existing(tx, upload_id).id)
            upload = current(tx, locked) if locked is not None else _existing(tx, upload_id)
            if upload.state in {UploadState.CHECKING, UploadState.SUBMITTED}:
                state = {"state": upload.state}
                raise Conflict(f"upload {upload_id} is {upload.state}: wait for its end", "upload_id", state)
            if upload.state not in WITHDRAWAL:
                upload = replace(upload, state=UploadState.WITHDRAWING)
                tx.contributions.save(upload)
        drop_content(self._store, self._staging, upload)
        return upload

    def _accepted_licence(self, datanet: DatanetId) -> str | None:
        with self._db.read() as tx:
            found = tx.chain.datanet(datanet)
        if found is None:
            raise NotFound(f"no datanet {datanet}", "datanet")
        return accepted_licence(self._store, found)

    def _claim(self, upload_id: str) -> None:
        if not claim_rows(self._db, upload_id):
            with self._db.read() as tx:
                raise _copied(list(tx.contributions.copies(upload_id)))

    def _relay(self, upload: Upload, signature: str) -> Upload:
        """Once all its rows are claimed."""
        with self._db.begin() as tx:
            draft = _draft(tx, upload.id)
            if draft.ticket != upload.ticket:
                raise SignatureExpired("the typed data was handed out anew meanwhile: sign that", "signature")
            if not tx.contributions.has_claimed_all(upload.id):
                raise Conflict(f"upload {upload.id} was submitted twice at once: submit it again")
            signed = signed_contribution(draft, signature)
            key = f"contribute:{upload.id}:{signed['nonce']}:{signed['deadline']}"
            transaction = tx.transactions.enqueue(self._lane, REGISTRY, "contributeWithSig", [signed], key)
            tx.transactions.note_request(upload.account, transaction)
            submitted = replace(draft, state=UploadState.SUBMITTED, transaction_id=transaction, error=None)
            tx.contributions.save(submitted)
        return submitted

    def _check(self, upload: Upload, stream: Iterable[bytes], *, accepts_partial: bool) -> Upload:
        report = self._checking.report(upload, stream, accepts_partial=accepts_partial)
        if report.content_hash is None:
            return self._refuse(replace(upload, state=UploadState.INVALID, report=report))
        draft = replace(upload, state=UploadState.DRAFT, report=report)
        cid = self._store.folder_cid(self._staging.published_folder(draft))
        return self._save(replace(draft, report=replace(report, cid=cid)))

    def _refuse(self, invalid: Upload) -> Upload:
        """Only its report and the list of defects stay."""
        self._staging.drop_data(invalid.id)
        drop_rows(self._db, invalid.id)
        return self._save(invalid)

    def _save(self, upload: Upload) -> Upload:
        with self._db.begin() as tx:
            tx.contributions.save(upload)
        return upload

    def _instant(self) -> int:
        """Now, by whichever clock is ahead: the registry judges deadlines by the chain's."""
        return max(int(self._now()), self._chain.head().timestamp)

    def _verify(self, upload: Upload, signature: str) -> None:
        if upload.state is not UploadState.DRAFT or upload.ticket is None:
            raise Conflict(f"upload {upload.id} is {upload.state} without typed data: ask for it and sign it")
        if upload.ticket.deadline <= self._instant():
            raise SignatureExpired("the signature came too late: ask for the typed data again", "signature")
        refusal = self._consent.refusal(upload.account, signing_digest(self._domain, upload), signature)
        if refusal is not None:
            raise WrongSignature(f"not the contributor's signature of this upload: {refusal}", "signature")

    @property
    def _domain(self) -> TypedDomain:
        return TypedDomain(self._chain.chain_id, self._chain.address(REGISTRY))


def _ticket(draft: Upload, nonce: int, now: int) -> Ticket:
    known = draft.ticket
    if known is not None and known.nonce == nonce and known.deadline - now > SIGNING_SECONDS // 2:
        return known
    return Ticket(nonce, now + SIGNING_SECONDS)


def _existing(tx: UnitOfWork, upload_id: str) -> Upload:
    upload = tx.contributions.get(upload_id)
    if upload is None:
        raise NotFound(f"no upload {upload_id}", "upload_id")
    return upload


def _draft(tx: UnitOfWork, upload_id: str) -> Upload:
    """Locked; a draft again as well, if its last transaction failed."""
    locked = tx.contributions.locked(upload_id)
    upload = None if locked is None else current(tx, locked)
    if upload is None or upload.state is not UploadState.DRAFT:
        state = "gone" if upload is None else upload.state
        raise Conflict(f"upload {upload_id} is {state}, not a draft", "upload_id", {"state": state})
    return upload


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(1 << 16), b"")


def _title(name: str) -> str:
    title = name.strip()
    if not 0 < len(title) <= MAX_NAME_CHARACTERS or not title.isprintable():
        raise InvalidInput(f"a name has 1 to {MAX_NAME_CHARACTERS} printable characters", "name")
    return title


def _copied(copies: list[Copy]) -> CopiedRows:
    if not copies:
        return CopiedRows("another upload had claimed rows of this one, and gave them up: submit it again")
    owners = sorted({copy.of_account for copy in copies})
    message = f"{len(copies)} rows were submitted meanwhile by {', '.join(owners)}: upload without them"
    shown = [{"line": c.line, "of_line": c.of_line, "of_account": c.of_account} for c in copies[:100]]
    return CopiedRows(message, details={"copies": shown})
