"""Uploads, from the received file to the recorded contribution."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any

from backend.domain.transactions import TransactionState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from backend.domain.dataset import Defect, RowFormat
    from backend.domain.ids import Account, Cid, DatanetId, Hash32
    from backend.domain.near_duplicates import NearCopies
    from backend.domain.registries import Contribution
    from backend.domain.transactions import ChainTransaction


class UploadState(StrEnum):
    CHECKING = "checking"
    """Its bytes are being received. An interrupted upload is deleted after a day."""
    INVALID = "invalid"
    """The report has its defects. Its content is not stored."""
    DRAFT = "draft"
    """Valid, waiting for the contributor's signature."""
    SUBMITTED = "submitted"
    """Signed and published; the transaction that records it is pending."""
    RECORDED = "recorded"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    WITHDRAWING = "withdrawing"
    """Withdrawn by its contributor and deleted here; the curators' decision is pending."""
    WITHDRAWN = "withdrawn"
    """Not in later snapshots. Its hashes stay on the chain, and it keeps what it earned."""


WITHDRAWAL = frozenset({UploadState.WITHDRAWING, UploadState.WITHDRAWN})


class ReviewReason(IntEnum):
    """Reason codes of curators' decisions on the chain."""

    NONE = 0
    COPIED = 1
    """Copies another contribution, in whole or in part."""
    LICENCE = 2
    MALFORMED = 3
    """Its bytes do not match the content hash, are not canonical, or are not rows."""
    QUALITY = 4
    HARMFUL = 5
    PERSONAL_DATA = 6
    WITHDRAWN = 7
    """Withdrawn by its contributor."""


def is_withdrawn(recorded: Contribution) -> bool:
    """Whether the curators rejected it as withdrawn."""
    return recorded.is_accepted is False and recorded.reason == ReviewReason.WITHDRAWN


def decision(content_hash: Hash32, reason: ReviewReason) -> dict[str, Any]:
    """The registry's `Review`: `NONE` accepts, any other reason rejects."""
    is_accepted = reason is ReviewReason.NONE
    return {"contentHash": content_hash, "isAccepted": is_accepted, "reason": str(int(reason))}


@dataclass(frozen=True, slots=True)
class Profile:
    """Statistics of the valid rows. Tokens and languages are of a uniform sample of rows."""

    num_sampled: int
    """Rows in the sample."""
    is_exact: bool
    """Whether the sample has all rows; otherwise `num_tokens` is extrapolated by characters."""
    num_tokens: int | None
    """Tokens of the texts without chat template; None if the base model's tokenizer is not available."""
    languages: Mapping[str, int]
    """Sampled rows by ISO 639 code, the most frequent first; `und` if too short or too mixed."""
    lengths: Mapping[str, int]
    """Histogram of all rows by characters. Keys are upper bounds, one less than a power of two."""


class PersonalKind(StrEnum):
    """Kinds of personal data with a recognisable form, by their names in presidio."""

    EMAIL_ADDRESS = "EMAIL_ADDRESS"
    PHONE_NUMBER = "PHONE_NUMBER"
    IP_ADDRESS = "IP_ADDRESS"
    CREDIT_CARD = "CREDIT_CARD"
    IBAN_CODE = "IBAN_CODE"
    CRYPTO = "CRYPTO"
    US_SSN = "US_SSN"
    UK_NINO = "UK_NINO"
    UK_NHS = "UK_NHS"


@dataclass(frozen=True, slots=True)
class PersonalFinding:
    line: int
    field: str
    kind: PersonalKind
    masked: str
    """The first finding of this kind in the field, masked."""


@dataclass(frozen=True, slots=True)
class PersonalData:
    """Findings of patterns and checksums. Names and postal addresses are not detected."""

    counts: Mapping[PersonalKind, int]
    """Number of fields of rows by kind."""
    first: tuple[PersonalFinding, ...]
    """The first hundred findings."""


@dataclass(frozen=True, slots=True)
class Report:
    """Result of validating an upload. Hash and CID of an invalid upload are None."""

    licence: str
    """SPDX expression."""
    datanet_licence: str | None = None
    """SPDX expression that the datanet requires; None if it requires none or its terms are unknown."""
    are_terms_unknown: bool = False
    """Whether neither this installation nor a reachable operator had the datanet's terms: the licence was not
    compared with them, and only people accept the contribution.
    """
    format: RowFormat | None = None
    num_rows: int = 0
    """Valid rows."""
    num_characters: int = 0
    num_bytes: int = 0
    """Size of the canonical form."""
    content_hash: Hash32 | None = None
    """sha-256 of the canonical form."""
    cid: Cid | None = None
    """CID of the folder to publish, with `data.jsonl` and `contribution.json`."""
    defects: tuple[Defect, ...] = ()
    """The first hundred defects; `Contributions.defects` returns all."""
    defect_counts: Mapping[str, int] = field(default_factory=dict)
    """Number of all defects by code."""
    num_left_out: int = 0
    """Lines with defects that were dropped with the contributor's consent."""
    profile: Profile | None = None
    """None without valid rows."""
    personal_data: PersonalData | None = None
    """None until it has been checked."""
    near_copies: NearCopies | None = None
    """None until it has been checked."""

    @property
    def num_defects(self) -> int:
        return sum(self.defect_counts.values())


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """Single use and expiry (unix seconds) of the contributor's signature."""

    nonce: int
    deadline: int


@dataclass(frozen=True, slots=True)
class Upload:
    id: str
    account: Account
    """The contributor."""
    datanet: DatanetId
    name: str
    state: UploadState
    created_at: datetime
    report: Report
    signing_request: SigningRequest | None = None
    """The latest request for a signature; once `transaction_id` is set, the one that was signed."""
    transaction_id: int | None = None
    index: int | None = None
    """Index in the datanet, once it was accepted."""
    reason: int | None = None
    """The curators' reason code, if it is rejected."""
    error: Mapping[str, Any] | None = None
    """Error of the last failed transaction, as `ChainTransaction.error`."""
    failed_at: datetime | None = None
    """From when on a draft with an `error` counts as abandoned; None until curation finds it so old that it
    would be deleted.
    """

    @property
    def reason_name(self) -> str | None:
        """Name of the reason code; None for unknown codes."""
        known = {int(reason): reason.name.lower() for reason in ReviewReason}
        return None if self.reason is None else known.get(self.reason)


@dataclass(frozen=True, slots=True)
class Copy:
    """Row `line` of an upload equals row `of_line` of another upload or of the same one."""

    line: int
    of_upload: str
    of_line: int
    of_account: Account
    of_index: int | None
    """Index of the other contribution, once it was accepted."""


def own_record(upload: Upload, recorded: Contribution | None) -> Contribution | None:
    """The registry's entry with the upload's content hash, if it is of this upload. Anyone can record the
    hash of a pending transaction first, and the contributor can have sent another upload of the same rows.
    """
    if recorded is None or upload.transaction_id is None:
        return None
    return recorded if recorded.contributor == upload.account else None


def update_from_chain(
    upload: Upload, recorded: Contribution | None, transaction: ChainTransaction | None
) -> Upload:
    """The upload updated from the chain. `recorded` is its `own_record`.

    Idempotent, and independent of intermediate states that were not observed.
    """
    if recorded is not None:
        state = _state_of(recorded, is_withdrawing=upload.state in WITHDRAWAL)
        reason = recorded.reason if recorded.is_accepted is False else None
        return replace(upload, state=state, index=recorded.index, reason=reason, error=None)
    if upload.state in WITHDRAWAL:
        if transaction is None or transaction.state is TransactionState.FAILED:
            return replace(upload, state=UploadState.WITHDRAWN, index=None, transaction_id=None)
        return replace(upload, state=UploadState.WITHDRAWING, index=None)
    if transaction is None:
        return upload
    if transaction.state is TransactionState.FAILED:
        # The signature is used or expired: the contributor must sign again.
        unsigned = replace(upload, signing_request=None, transaction_id=None, index=None, reason=None)
        return replace(unsigned, state=UploadState.DRAFT, error=transaction.error, failed_at=None)
    # Also after a reorganisation dropped the record.
    return replace(upload, state=UploadState.SUBMITTED, index=None, reason=None)


def _state_of(recorded: Contribution, *, is_withdrawing: bool) -> UploadState:
    if is_withdrawn(recorded):
        return UploadState.WITHDRAWN
    if is_withdrawing:
        return UploadState.WITHDRAWING
    state = {None: UploadState.RECORDED, True: UploadState.ACCEPTED, False: UploadState.REJECTED}
    return state[recorded.is_accepted]
