"""Uploads, signs and submits contributions.

The chain has the state of a contribution; an `Upload` is a cache of it. Each step may be repeated after a
crash: blocks are content-addressed, queued transactions have keys, and related changes share a transaction.
Later steps are in `backend.services.contribute.curate`.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backend.disk.files import pieces
from backend.disk.space import raising_disk_full
from backend.domain.content import ContentCorrupt, ContentMissing
from backend.domain.contribution import WITHDRAWAL, Report, SigningRequest, Upload, UploadState
from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from backend.domain.hashing import TypedDomain
from backend.services.contribute.canonical_rows import read_defects
from backend.services.contribute.licences import check_compatible, parse_licence
from backend.services.contribute.message import signed_contribution, signing_digest, typed_data
from backend.services.contribute.staging import DATA_FILE
from backend.services.contribute.uploads import (
    apply_chain_state,
    apply_chain_states,
    claim_rows,
    delete_content,
    delete_rows,
    release_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.contribution import Copy
    from backend.domain.dataset import Defect
    from backend.domain.ids import Account, DatanetId
    from backend.domain.registries import Contribution
    from backend.ports.chain import Chain
    from backend.ports.storage import BlobStore
    from backend.services.contribute.check_upload import UploadCheck
    from backend.services.contribute.terms import DatanetTerms
    from backend.services.transactions.consent import Consent
    from backend.services.transactions.relays import Relay, Relays


REGISTRY = "DatasetRegistry"
SIGNING_SECONDS = 3600
"""Time that a contributor has to sign."""
CONTRIBUTION_GAS = 250_000
"""Estimate of the gas limit of a contribution that cannot be simulated yet."""
MAX_NAME_CHARACTERS = 100


class WrongSignature(InvalidInput):
    """The signature is not the contributor's, or not of the latest typed data."""


class SignatureExpired(Conflict):
    """The signature's deadline has passed. Request the typed data again and sign it."""


class CopiedRows(Conflict):
    """Another upload has claimed rows of this one since the check; see `details["copies"]`."""


class Contributions:
    """Uploads of accounts, and the contributions that they become."""

    def __init__(
        self,
        db: Database,
        store: BlobStore,
        chain: Chain,
        consent: Consent,
        check: UploadCheck,
        relays: Relays,
        terms: DatanetTerms,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._store = store
        self._chain = chain
        self._consent = consent
        self._checking = check
        self._staging = check.staging
        self._relays = relays
        self._terms = terms
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
        """Check JSONL or Parquet. Returns a draft if all rows are valid, else an invalid upload whose report
        has the defects. With `accepts_partial`, a draft of the valid rows, if any; the report has the omitted
        ones.

        Errors, after which nothing is stored: `NotFound` (datanet), `UnknownLicence`, `LicenceConflict`,
        `UnreadableTerms`, `InvalidInput` (name), `DiskFull`, those of `write_upload`, and what `stream`
        raises.
        """
        report = self._licence_report(datanet, parse_licence(licence))
        created_at = datetime.fromtimestamp(self._now(), UTC)
        upload_id = f"upload-{secrets.token_hex(8)}"
        upload = Upload(
            upload_id, account, datanet, _parse_name(name), UploadState.CHECKING, created_at, report
        )
        with self._db.begin() as tx:
            tx.contributions.add(upload)
        try:
            with raising_disk_full("the disk is full; nothing of the upload was stored"):
                return self._check(upload, stream, accepts_partial=accepts_partial)
        except BaseException:
            self._staging.drop(upload.id)
            delete_rows(self._db, upload.id)
            with self._db.begin() as tx:
                tx.contributions.remove(upload.id)
            raise

    def status(self, upload_id: str) -> Upload:
        """The upload with its present state on the chain. Errors: `NotFound`."""
        with self._db.read() as tx:
            return apply_chain_state(tx, _require_upload(tx, upload_id))

    def find(
        self,
        account: Account | None = None,
        datanet: DatanetId | None = None,
        limit: int = 100,
        after: str | None = None,
        without: Collection[UploadState] = (),
    ) -> list[Upload]:
        """The uploads that follow upload `after`, newest first, with their present state on the chain, except
        those that were saved in a state of `without`.

        Errors: `InvalidInput` if `after` is not one of them; its state is not checked.
        """
        with self._db.read() as tx:
            found = tx.contributions.find(account, datanet, limit, after, without)
            return apply_chain_states(tx, found)

    def report_of(self, recorded: Contribution) -> Report | None:
        """Report of a recorded contribution; None if it is of none of its contributor's latest 100 uploads
        to the datanet here.
        """
        uploads = self.find(recorded.contributor, recorded.datanet)
        reports = (upload.report for upload in uploads)
        return next((one for one in reports if one.content_hash == recorded.content_hash), None)

    def content(self, upload_id: str) -> Iterator[bytes]:
        """The canonical rows. Errors: `NotFound`, also if they are deleted; those of `BlobStore.open`."""
        report = self.status(upload_id).report
        staged = self._staging.data(upload_id)
        if staged.exists():
            return pieces(staged)
        if report.cid is None:
            raise NotFound(f"the rows of upload {upload_id} are not stored", "upload_id")
        return self._store.open(report.cid, DATA_FILE)

    def defects(self, upload_id: str) -> Iterator[Defect]:
        """The first 10,000 defects of an upload: format errors, then copies, each by line."""
        self.status(upload_id)
        return read_defects(self._staging.defects(upload_id))

    def typed_data(self, upload_id: str, account: Account | None = None) -> dict[str, Any]:
        """The EIP-712 object that the contributor's wallet signs (`eth_signTypedData_v4`).

        Returns the previous one while it is still usable. Errors: `NotFound`; `Conflict` unless the upload is
        a draft; `Forbidden` if `account` is given and is not its contributor.
        """
        upload = self.status(upload_id)
        if account not in {None, upload.account}:
            raise Forbidden("only its contributor can sign an upload", "upload_id")
        nonce = int(self._chain.call(REGISTRY, "nonces", upload.account))
        instant = self._timestamp()
        with self._db.begin() as tx:
            draft = _draft(tx, upload_id)
            nonce = max(nonce, tx.contributions.next_nonce(upload.account))
            draft = replace(draft, signing_request=_signing_request(draft, nonce, instant))
            tx.contributions.save(draft)
        return typed_data(self._domain, draft)

    def submit(self, upload_id: str, signature: str) -> Upload:
        """Publish the blocks and relay the contributor's signature. Idempotent.

        Errors, which change nothing: `NotFound`; `Conflict` unless a draft whose typed data was requested;
        `WrongSignature`; `SignatureExpired`; `CopiedRows`; `DiskFull`; `Unavailable` if the store cannot be
        reached; those of `Relays.relay`.
        """
        upload = self.status(upload_id)
        if upload.transaction_id is not None:
            return upload
        self._verify(upload, signature)
        relay = self._prepare_relay(upload, signature)  # publish nothing that is refused
        self._staging.space.require(upload.report.num_bytes)
        cid = self._store.add_folder(self._staging.published_folder(upload))
        if cid != upload.report.cid:
            raise ContentCorrupt(f"the rows of upload {upload.id} changed on disk: upload them again")
        try:
            self._claim(upload_id)
            return self._submit(upload, relay)
        except BaseException:
            release_rows(self._db, upload_id)
            raise

    def withdraw(self, upload_id: str) -> Upload:
        """Withdraw an upload: delete its content here at once, and exclude it from later snapshots once the
        curators' decision is on the chain. Earlier snapshots and earnings are unaffected. An upload that was
        not sent is withdrawn at once, and leaves another upload of the same rows as it is. Idempotent.

        Errors: `NotFound`; `Conflict` while it is checked or submitted; `Unavailable` if the store cannot be
        reached, in which case the content is deleted later.
        """
        with self._db.begin() as tx:
            locked = tx.contributions.locked(_require_upload(tx, upload_id).id)
            upload = apply_chain_state(tx, locked) if locked is not None else _require_upload(tx, upload_id)
            if upload.state in {UploadState.CHECKING, UploadState.SUBMITTED}:
                state = {"state": upload.state}
                raise Conflict(
                    f"upload {upload_id} is {upload.state}: wait until that has ended", "upload_id", state
                )
            if upload.state not in WITHDRAWAL:
                # Saved until `Curation` has deleted its rows too, also if it was not sent.
                withdrawing = replace(upload, state=UploadState.WITHDRAWING)
                tx.contributions.save(withdrawing)
                upload = apply_chain_state(tx, withdrawing)
        delete_content(self._db, self._store, self._staging, upload)
        return upload

    def _licence_report(self, datanet: DatanetId, licence: str) -> Report:
        """The report of a licence that the datanet accepts, as far as its terms are known."""
        with self._db.read() as tx:
            record = tx.chain.datanet(datanet)
        if record is None:
            raise NotFound(f"no datanet {datanet}", "datanet")
        try:
            accepted = self._terms.accepted_licence(record)
        except ContentMissing:
            return Report(licence, are_terms_unknown=True)
        if accepted is not None:
            check_compatible(licence, accepted)
        return Report(licence, accepted)

    def _claim(self, upload_id: str) -> None:
        if not claim_rows(self._db, upload_id):
            with self._db.read() as tx:
                raise _copied_rows_error(list(tx.contributions.copies(upload_id)))

    def _prepare_relay(self, upload: Upload, signature: str) -> Relay:
        signed = signed_contribution(upload, signature)
        key = f"contribute:{upload.id}:{signed['nonce']}:{signed['deadline']}"
        # A later nonce than the next one waits for the account's earlier contributions.
        is_later = int(signed["nonce"]) > int(self._chain.call(REGISTRY, "nonces", upload.account))
        gas = CONTRIBUTION_GAS if is_later else None
        return self._relays.prepare(upload.account, (REGISTRY, "contributeWithSig"), [signed], key, gas)

    def _submit(self, upload: Upload, relay: Relay) -> Upload:
        """Enqueue the transaction. All rows must be claimed."""
        with self._db.begin() as tx:
            draft = _draft(tx, upload.id)
            if draft.signing_request != upload.signing_request:
                raise SignatureExpired(
                    "the typed data has changed since: request and sign it again", "signature"
                )
            if not tx.contributions.has_claimed_all(upload.id):
                raise Conflict(f"upload {upload.id} was submitted concurrently: submit it again")
            transaction = self._relays.queue(tx, relay)
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
        """Save an invalid upload; delete all but its report and its defects."""
        self._staging.drop_data(invalid.id)
        delete_rows(self._db, invalid.id)
        return self._save(invalid)

    def _save(self, upload: Upload) -> Upload:
        with self._db.begin() as tx:
            tx.contributions.save(upload)
        return upload

    def _timestamp(self) -> int:
        """The later of our clock and the chain's, by which the registry checks deadlines."""
        return max(int(self._now()), self._chain.head().timestamp)

    def _verify(self, upload: Upload, signature: str) -> None:
        if upload.state is not UploadState.DRAFT or upload.signing_request is None:
            raise Conflict(f"upload {upload.id} is {upload.state} without typed data: request it and sign it")
        if upload.signing_request.deadline <= self._timestamp():
            raise SignatureExpired("the signature has expired: request the typed data again", "signature")
        refusal = self._consent.refusal(upload.account, signing_digest(self._domain, upload), signature)
        if refusal is not None:
            raise WrongSignature(f"not the contributor's signature of this upload: {refusal}", "signature")

    @property
    def _domain(self) -> TypedDomain:
        return TypedDomain(self._chain.chain_id, self._chain.address(REGISTRY))


def _signing_request(draft: Upload, nonce: int, now: int) -> SigningRequest:
    previous = draft.signing_request
    if previous is not None and previous.nonce == nonce and previous.deadline - now > SIGNING_SECONDS // 2:
        return previous
    return SigningRequest(nonce, now + SIGNING_SECONDS)


def _require_upload(tx: UnitOfWork, upload_id: str) -> Upload:
    upload = tx.contributions.get(upload_id)
    if upload is None:
        raise NotFound(f"no upload {upload_id}", "upload_id")
    return upload


def _draft(tx: UnitOfWork, upload_id: str) -> Upload:
    """Lock a draft. An upload whose transaction failed is a draft again."""
    locked = tx.contributions.locked(upload_id)
    upload = None if locked is None else apply_chain_state(tx, locked)
    if upload is None or upload.state is not UploadState.DRAFT:
        state = "deleted" if upload is None else upload.state
        raise Conflict(f"upload {upload_id} is {state}, not a draft", "upload_id", {"state": state})
    return upload


def _parse_name(name: str) -> str:
    title = name.strip()
    if not 0 < len(title) <= MAX_NAME_CHARACTERS or not title.isprintable():
        raise InvalidInput(f"a name must have 1 to {MAX_NAME_CHARACTERS} printable characters", "name")
    return title


def _copied_rows_error(copies: list[Copy]) -> CopiedRows:
    if not copies:
        return CopiedRows("another upload had claimed rows of this one and released them: submit it again")
    owners = sorted({copy.of_account for copy in copies})
    message = f"{len(copies)} rows have been submitted by {', '.join(owners)}: upload without them"
    first = [{"line": c.line, "of_line": c.of_line, "of_account": c.of_account} for c in copies[:100]]
    return CopiedRows(message, details={"copies": first})
