"""What one receipt pays, to whom and why: its slices, their parts, and one account's among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.batch import Header
from backend.domain.content import cid_of
from backend.domain.earnings import CONTRIBUTORS_PART, EarningState, Role, earning_state, role_of
from backend.domain.errors import Conflict, NotFound
from backend.domain.hashing import receipt_id
from backend.domain.ids import Account
from backend.domain.money import PPM
from backend.domain.rules import Rules
from backend.domain.settlement import BatchState
from backend.services.accounts.claims import claimed
from backend.services.accounts.credit_walk import verified
from backend.services.audit.auditor import valid_batch
from backend.services.audit.earnings import Lookup

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.catalogue import Agreement
    from backend.domain.ids import Cid, DatanetId, ReceiptId, VersionId
    from backend.domain.receipt import SignedReceipt, Slice
    from backend.domain.settlement import CommittedBatch
    from backend.services.audit.background import BackgroundAudits
    from backend.services.audit.earnings import PublishedEntries


class ReceiptNotCredited(Conflict):
    """The receipt is in no batch yet, or its batch was voided and it is not settled again yet."""


class NothingEarned(NotFound):
    """The receipt pays other accounts, but nothing to this one."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one account receives of a slice. `share_ppm`: share of the contribution by the attribution."""

    part: int
    role: Role
    account: Account
    amount: int
    datanet: DatanetId | None
    contribution: int | None
    share_ppm: int | None


@dataclass(frozen=True, slots=True)
class EarnedSlice:
    version_id: VersionId
    adapter: str
    """Full name of the version."""
    weight_ppm: int
    charge: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class EarnedReceipt:
    """A receipt as an earner sees it: neither prompt and answer nor their hashes."""

    receipt_id: ReceiptId
    account: Account
    batch: CommittedBatch
    state: EarningState
    signed: SignedReceipt
    slices: tuple[EarnedSlice, ...]
    agreements: tuple[Agreement | None, ...]
    """Of the versions that paid contributors."""
    endpoint: str
    """URL of the operator; empty while it states none."""

    @property
    def amount(self) -> int:
        """What the account earns, in micro-units."""
        mine = (part.amount for one in self.slices for part in one.parts if part.account == self.account)
        return sum(mine)

    @property
    def ppm(self) -> int:
        """The same as a part of the charge, rounded down."""
        return self.amount * PPM // self.signed.receipt.charge

    @property
    def accuracy(self) -> tuple[float, int] | None:
        """The method's agreement with the gradient and its number of answers; of a blend the lowest. None if
        an adapter's folder states none for the method, and for receipts that paid no contributor.
        """
        method = self.signed.method
        stated = [
            None if one is None or method not in one.by_method else (one.by_method[method], one.num_answers)
            for one in self.agreements
        ]
        known = [one for one in stated if one is not None]
        return min(known) if known and len(known) == len(stated) else None

    @property
    def data_cid(self) -> Cid:
        """Folder with the batch's data, from which anyone recomputes this."""
        return cid_of(Header.from_chain(self.batch.header).data_digest)

    @property
    def proof_url(self) -> str | None:
        """Where the operator serves the proof of inclusion; None while it states no URL."""
        path = f"/v1/receipts/{self.receipt_id}/proof"
        return f"{self.endpoint.rstrip('/')}{path}" if self.endpoint else None


class EarnedReceipts:
    def __init__(self, db: Database, audits: BackgroundAudits, published: PublishedEntries) -> None:
        self._db, self._audits, self._published = db, audits, published

    def get(self, account: Account, receipt: ReceiptId) -> EarnedReceipt:
        """Errors: `NotFound` for a receipt that is not stored here and paid no account that signed in here;
        `ReceiptNotCredited`; `NothingEarned`; `WrongBatch` and `Unavailable` if its batch cannot be verified.
        """
        with self._db.read() as tx:
            batch = _batch_of(tx, account, receipt)
            num_verified = verified(tx, batch.operator).number
        if batch.state is not BatchState.VOID and batch.number > num_verified:
            failed = self._audits.follow([batch.operator], is_urgent=True)
            if batch.operator in failed:
                raise failed[batch.operator]
        signed = self._signed(batch, receipt)
        with self._db.read() as tx:
            found = EarnedReceipt(
                receipt_id=receipt,
                account=account,
                batch=batch,
                state=_state(tx, batch, account),
                signed=signed,
                slices=_slices(tx, batch, signed),
                agreements=tuple(tx.catalogue.agreement(s.version_id) for s in signed.slices if s.shares),
                endpoint=_endpoint(tx, batch.operator),
            )
        if not found.amount:
            raise NothingEarned(
                f"Receipt {receipt} paid {account} nothing; `/v1/attribution/{receipt}` has whom it paid.",
                param="receipt",
            )
        return found

    def _signed(self, batch: CommittedBatch, receipt: ReceiptId) -> SignedReceipt:
        with self._published.reading(batch) as receipts:
            found = (signed for signed in receipts if receipt_id(signed.receipt) == receipt)
            if (signed := next(found, None)) is None:
                raise _not_credited(receipt)
            return signed


def _batch_of(tx: UnitOfWork, account: Account, receipt: ReceiptId) -> CommittedBatch:
    """The valid batch with the receipt; the newest void one if no other is known.

    Errors: `NotFound`, `ReceiptNotCredited`.
    """
    hashes = tx.earnings.batches_of(account, receipt)
    stored = tx.receipts.get(receipt)
    if stored is None and not hashes:
        raise NotFound(
            f"No receipt {receipt} here: name one that paid {account}, as `/v1/earnings/entries` lists them.",
            param="receipt",
        )
    found = [batch for hash_ in hashes if (batch := tx.chain.batch(hash_)) is not None]
    if stored is not None and stored.batch is not None:
        batch = valid_batch(tx.chain, stored.operator, stored.batch)
        found += [] if batch is None else [batch]
    if not found:
        raise _not_credited(receipt)
    return max(found, key=lambda batch: (batch.state is not BatchState.VOID, batch.block_number))


def _not_credited(receipt: ReceiptId) -> ReceiptNotCredited:
    return ReceiptNotCredited(
        f"Receipt {receipt} is in no valid batch yet; it is paid once its operator commits one.",
        param="receipt",
    )


def _state(tx: UnitOfWork, batch: CommittedBatch, account: Account) -> EarningState:
    """State of the account's credit. The balance after the batch is known where the credit is stored.
    Elsewhere the newest balance stands for it, so that a credit counts as claimed once all are.
    """
    credit = tx.earnings.credit(account, batch.hash)
    newest = verified(tx, batch.operator).balances.get(account, 0)
    balance = newest if credit is None else credit.balance
    return earning_state(batch.state, balance, claimed(tx, batch.operator, account))


def _endpoint(tx: UnitOfWork, operator: Account) -> str:
    known = tx.chain.operator(operator)
    return "" if known is None else known.endpoint


def _slices(tx: UnitOfWork, batch: CommittedBatch, signed: SignedReceipt) -> tuple[EarnedSlice, ...]:
    rules, lookup = Rules(tx.chain), Lookup(tx.chain, [signed])
    terms = tx.chain.parameter_set(int(batch.header["parameterSet"]))
    assert terms is not None  # noqa: S101 - the contract accepted the batch
    charges = rules.charges(signed)
    earned = rules.earnings(signed, charges, batch.operator, terms)
    return tuple(
        EarnedSlice(
            version_id=slice_.version_id,
            adapter=rules.record(slice_.version_id).full_name(slice_.version_id),
            weight_ppm=slice_.weight_ppm,
            charge=charge,
            parts=tuple(_part(lookup, slice_, part, pair) for part, pair in enumerate(pairs)),
        )
        for slice_, charge, pairs in zip(signed.slices, charges, earned, strict=True)
    )


def _part(lookup: Lookup, slice_: Slice, part: int, earned: tuple[bytes, int]) -> Part:
    account, amount = earned
    datanet = contribution = share = None
    if part >= CONTRIBUTORS_PART and slice_.shares:
        share = slice_.shares[part - CONTRIBUTORS_PART]
        datanet, contribution = lookup.contribution(slice_.version_id, share.position)
    return Part(
        part=part,
        role=role_of(part, has_contributors=share is not None),
        account=Account("0x" + account.hex()),
        amount=amount,
        datanet=datanet,
        contribution=contribution,
        share_ppm=None if share is None else share.ppm,
    )
