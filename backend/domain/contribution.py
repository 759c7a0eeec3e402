"""An upload on its way to becoming a contribution, and how what the chain says moves it on."""

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
    """Its bytes are being received. One that stays so was cut off, and goes after a day."""
    INVALID = "invalid"
    """The report says why. Nothing of it is kept."""
    DRAFT = "draft"
    """Sound, and waiting for its contributor's signature."""
    SUBMITTED = "submitted"
    """Signed, published, and on its way to the chain."""
    RECORDED = "recorded"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    WITHDRAWING = "withdrawing"
    """Its contributor took it back, and its content is gone from here; the curators' decision is to come."""
    WITHDRAWN = "withdrawn"
    """No later snapshot has it. What it was stays provable by its hashes, and what it earned stays earned."""


WITHDRAWAL = frozenset({UploadState.WITHDRAWING, UploadState.WITHDRAWN})


class ReviewReason(IntEnum):
    """Reason codes of a curator's decision on the chain."""

    NONE = 0
    COPIED = 1
    """Of another contribution, in whole or in part."""
    LICENCE = 2
    MALFORMED = 3
    """Its bytes are not those of the content hash, not canonical, or not rows."""
    QUALITY = 4
    HARMFUL = 5
    PERSONAL_DATA = 6
    WITHDRAWN = 7
    """By its contributor."""


def is_withdrawn(recorded: Contribution) -> bool:
    """Whether the curators rejected it because its contributor took it back."""
    return recorded.is_accepted is False and recorded.reason == ReviewReason.WITHDRAWN


def decision(content_hash: Hash32, reason: ReviewReason) -> dict[str, Any]:
    """The registry's `Review`: no reason accepts, any other one rejects."""
    is_accepted = reason is ReviewReason.NONE
    return {"contentHash": content_hash, "isAccepted": is_accepted, "reason": str(int(reason))}


@dataclass(frozen=True, slots=True)
class Profile:
    """What the sound rows are like. Tokens and languages are those of a uniform sample of rows."""

    num_sampled: int
    """Rows."""
    is_exact: bool
    """Whether the sample is everything; else `num_tokens` is projected onto all characters."""
    num_tokens: int | None
    """Of the texts, without a chat template; None where the base model's tokenizer cannot be used alone."""
    languages: Mapping[str, int]
    """Sampled rows by ISO 639 code, the most frequent first; `und`: too short or too mixed to say."""
    lengths: Mapping[str, int]
    """All rows by their characters: the key is the most that its rows have, one less than a power of two."""


class PersonalKind(StrEnum):
    """Kinds of personal data that are found by their form, as presidio names them."""

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
    """The first of its kind in the field, so far as it may be shown."""


@dataclass(frozen=True, slots=True)
class PersonalData:
    """What patterns and checksums find. Names and postal addresses are not looked for."""

    counts: Mapping[PersonalKind, int]
    """Fields of rows."""
    first: tuple[PersonalFinding, ...]
    """A hundred."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the check of an upload found. Of an invalid one, the hash and CID are None."""

    licence: str
    """SPDX expression."""
    datanet_licence: str | None = None
    """The one that names what its datanet takes; None where it states none, or its terms are not here."""
    format: RowFormat | None = None
    num_rows: int = 0
    """Sound ones."""
    num_characters: int = 0
    num_bytes: int = 0
    """Of the canonical form."""
    content_hash: Hash32 | None = None
    """sha-256 of the canonical bytes."""
    cid: Cid | None = None
    """Folder with `data.jsonl` and `contribution.json`, as it will be published."""
    defects: tuple[Defect, ...] = ()
    """The first hundred; `Contributions.defects` has all."""
    defect_counts: Mapping[str, int] = field(default_factory=dict)
    """By code, of all."""
    num_left_out: int = 0
    """Lines with defects that a contribution was made without, by its contributor's word."""
    profile: Profile | None = None
    """Of the sound rows; None while there is none."""
    personal_data: PersonalData | None = None
    """None while it is being checked."""
    near_copies: NearCopies | None = None
    """None while it is being checked."""

    @property
    def num_defects(self) -> int:
        return sum(self.defect_counts.values())


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the contributor signs beside the content: single use and expiry (unix seconds)."""

    nonce: int
    deadline: int


@dataclass(frozen=True, slots=True)
class Upload:
    id: str
    account: Account
    """Its contributor."""
    datanet: DatanetId
    name: str
    state: UploadState
    created_at: datetime
    report: Report
    ticket: Ticket | None = None
    """Of the typed data handed out last; with `transaction_id`, the one that was signed."""
    transaction_id: int | None = None
    index: int | None = None
    """Place in the datanet, once recorded."""
    reason: int | None = None
    """The curators' code for why it is rejected; while it is not, None."""
    error: Mapping[str, Any] | None = None
    """Why the last attempt to record it failed: the chain's error by name, message and arguments."""

    @property
    def reason_name(self) -> str | None:
        """Of the code; None also for one that other curators made up."""
        known = {int(reason): reason.name.lower() for reason in ReviewReason}
        return None if self.reason is None else known.get(self.reason)


@dataclass(frozen=True, slots=True)
class Copy:
    """Row `line` of an upload equals row `of_line` of another one, or of the same one."""

    line: int
    of_upload: str
    of_line: int
    of_account: Account
    of_index: int | None
    """Of the other contribution, once it is recorded."""


def advanced(upload: Upload, recorded: Contribution | None, transaction: ChainTransaction | None) -> Upload:
    """The upload as the chain has it. `recorded`: what the registry holds under its content hash.

    The same facts give the same upload, however often they are looked at and whatever was missed between.
    """
    if recorded is not None and recorded.contributor == upload.account:
        state = _decided(recorded, is_taken_back=upload.state in WITHDRAWAL)
        reason = recorded.reason if recorded.is_accepted is False else None
        return replace(upload, state=state, index=recorded.index, reason=reason, error=None)
    if upload.state in WITHDRAWAL:
        is_gone = transaction is None or transaction.state is TransactionState.FAILED
        state = UploadState.WITHDRAWN if is_gone else UploadState.WITHDRAWING
        return replace(upload, state=state, index=None)
    if transaction is None:
        return upload
    if transaction.state is TransactionState.FAILED:
        # The signature is spent or void: the contributor may sign again.
        draft = replace(upload, state=UploadState.DRAFT, index=None, ticket=None, transaction_id=None)
        return replace(draft, error=transaction.error)
    return replace(upload, state=UploadState.SUBMITTED, index=None)  # also after a reorg took the record away


def _decided(recorded: Contribution, *, is_taken_back: bool) -> UploadState:
    if is_withdrawn(recorded):
        return UploadState.WITHDRAWN
    if is_taken_back:
        return UploadState.WITHDRAWING
    state = {None: UploadState.RECORDED, True: UploadState.ACCEPTED, False: UploadState.REJECTED}
    return state[recorded.is_accepted]
