"""Consequences of convictions of our own batches for later batches, so that no fault is repeated.

A receipt that was convicted for a fault of its own is *quarantined*: it is never settled again. Those that
the other receipt of an equivocation contradicts are *held* until the key that signed the other is retired:
that signature then counts for no later batch, and the thief of a key takes nothing from earners. If the
trees of a batch were convicted and this installation would build the same trees again, it does not follow
the contracts' rules and settles nothing. An unanswered demand proves no fault of a receipt: those receipts
are settled again.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backend.domain.batch import Header, OperatorLedger, build
from backend.domain.disputes.proofs import EquivocationProof
from backend.domain.disputes.witnesses import Fault, receipt_from_chain
from backend.domain.errors import Conflict, Unavailable
from backend.domain.hashing import receipt_id, to_bytes, to_hash
from backend.domain.ids import ZERO_HASH, Hash32
from backend.domain.merkle import RECEIPTS_TAG, SumTree
from backend.domain.rules import BadReceipt, Rules
from backend.services.audit.published import read_batch_data

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.batch import Batch
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ReceiptId
    from backend.domain.receipt import Receipt, SignedReceipt
    from backend.domain.settlement import CommittedBatch, Conviction
    from backend.ports.chain import Chain
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import Recover
    from backend.ports.storage import BlobStore

log = logging.getLogger(__name__)

Case = tuple[Hash32, Hash32]
"""Hashes of a batch and of the transaction that convicted it."""

_TREE_PROOFS = {
    "proveWrongEntry",
    "proveWrongBalance",
    "proveBelowClaimed",
    "proveWrongOrder",
    "proveZeroLeaf",
}
_LEAF_FAULTS = {Fault.VALUE, Fault.PLACE}
"""Faults of a receipt's leaf in the tree, not of the receipt itself."""


@dataclass(frozen=True, slots=True)
class Restrictions:
    quarantined: Mapping[ReceiptId, str]
    """Receipts that are never settled again, with the reason."""
    held: Mapping[ReceiptId, str]
    """Receipts that are settled once a key is retired, with the reason. Their charges are not waived."""
    contradicting: Sequence[tuple[Receipt, str]]
    """Receipts that would convict each one that they contradict, with the reason why those are held."""
    halt_reason: str = ""
    """Why nothing may be settled at all; empty if settlement may continue."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """The two receipts of an equivocation, each with the key that signed it, None if that is not seen; or, if
    the evidence is not, all receipts that it may contradict.
    """

    signed: Sequence[tuple[Receipt, Account | None]] = ()
    receipts: Sequence[ReceiptId] = ()


@dataclass(frozen=True)
class Convictions:
    """Convictions of one operator's batches on the indexed chain. One that a reorg removes has no
    consequence.

    Errors of the methods: `Unavailable` if chain or store cannot be reached.
    """

    operator: Account
    chain: Chain
    blobs: BlobStore
    settlement: TypedDomain
    recover: Recover
    _quarantined: dict[Case, dict[ReceiptId, str]] = field(default_factory=dict)
    _suspicions: dict[Case, Suspicion] = field(default_factory=dict)
    _halt_reasons: dict[Case, str] = field(default_factory=dict)
    """Caches: a result never changes, and computing it reads and hashes a whole batch."""

    def restrictions(self, tx: UnitOfWork) -> Restrictions:
        quarantined: dict[ReceiptId, str] = {}
        held: dict[ReceiptId, str] = {}
        contradicting: list[tuple[Receipt, str]] = []
        halt_reason, finalised = "", tx.chain.finalised(self.operator)
        for batch, conviction in _convicted(tx.chain.void_batches(self.operator)):
            try:
                quarantined |= self._quarantine(batch, conviction)
                if conviction.proof == EquivocationProof.function:
                    suspicion = self._suspicion(batch, conviction)
                    for receipt, key in suspicion.signed:
                        if reason := self._reason_to_hold(tx.chain, batch, conviction, key):
                            contradicting.append((receipt, reason))
                    if reason := self._reason_to_hold(tx.chain, batch, conviction, None):
                        held |= dict.fromkeys(suspicion.receipts, reason)
                # Once its number is final, a valid batch has replaced it.
                if not halt_reason and batch.number > finalised:
                    halt_reason = self._halt_reason(tx, batch, conviction)
            except Conflict as error:
                halt_reason = f"batch {batch.number} was convicted and its data cannot be read: {error}"
        return Restrictions(quarantined, held, contradicting, halt_reason)

    def quarantined(self, view: ChainView) -> Mapping[ReceiptId, str]:
        """Receipts quarantined by convictions, with reasons. Skips batches whose data cannot be read."""
        quarantined: dict[ReceiptId, str] = {}
        for batch, conviction in _convicted(view.void_batches(self.operator)):
            with suppress(Conflict):
                quarantined |= self._quarantine(batch, conviction)
        return quarantined

    def readable(self, batches: Iterable[CommittedBatch]) -> tuple[Mapping[ReceiptId, str], bool]:
        """As `quarantined`, by these void batches, without those that cannot be read now; and whether all
        could be. Raises nothing.
        """
        quarantined: dict[ReceiptId, str] = {}
        is_complete = True
        for batch, conviction in _convicted(batches):
            try:
                quarantined |= self._quarantine(batch, conviction)
            except (Conflict, Unavailable) as error:
                log.debug("the conviction of batch %d cannot be read now: %s", batch.number, error)
                is_complete = False
        return quarantined, is_complete

    def _quarantine(self, batch: CommittedBatch, conviction: Conviction) -> dict[ReceiptId, str]:
        case = (batch.hash, conviction.tx_hash)
        if case not in self._quarantined:
            self._quarantined[case] = self._find_quarantined(batch, conviction)
            for receipt, reason in self._quarantined[case].items():
                log.error("receipt %s is quarantined: %s", receipt, reason)
        return self._quarantined[case]

    def _suspicion(self, batch: CommittedBatch, conviction: Conviction) -> Suspicion:
        case = (batch.hash, conviction.tx_hash)
        if case not in self._suspicions:
            self._suspicions[case] = self._find_suspicion(batch, conviction)
        return self._suspicions[case]

    def _reason_to_hold(
        self, view: ChainView, batch: CommittedBatch, conviction: Conviction, key: Account | None
    ) -> str:
        """Until the key of the evidence is retired, or without evidence all keys of that time are; then
        empty.
        """
        operator = view.operator(self.operator)
        keys = [key] if key else view.keys_at(self.operator, conviction.block_number)
        counting = [key for key in keys if operator is None or key not in operator.retired]
        if not counting:
            return ""
        return (
            f"a receipt that contradicts it convicted batch {batch.number}; it is settled again once no key "
            f"counts that may have signed the other: `loraledger operator rotate-key {' '.join(counting)}`"
        )

    def _halt_reason(self, tx: UnitOfWork, batch: CommittedBatch, conviction: Conviction) -> str:
        case = (batch.hash, conviction.tx_hash)
        if case not in self._halt_reasons:
            self._halt_reasons[case] = self._find_halt_reason(tx, batch, conviction)
        return self._halt_reasons[case]

    def _find_quarantined(self, batch: CommittedBatch, conviction: Conviction) -> dict[ReceiptId, str]:
        fault, index = conviction.fault, conviction.receipt
        if fault is None or fault in _LEAF_FAULTS or index is None:
            return {}
        reason = (
            f"convicted by {conviction.proof} ({fault.name.lower()}) in batch {batch.number}; it is never "
            "settled again"
        )
        if arguments := self._arguments(batch, conviction):  # the batch's data may be lost
            return {receipt_id(receipt_from_chain(arguments["witness"]["receipt"])): reason}
        return dict.fromkeys(self._receipts(batch)[index : index + 1], reason)

    def _find_suspicion(self, batch: CommittedBatch, conviction: Conviction) -> Suspicion:
        """From the evidence in the convicting transaction. If another contract made the call, the evidence
        cannot be read: then all receipts of the batch are suspect.
        """
        if arguments := self._arguments(batch, conviction):
            other = receipt_from_chain(arguments["other"])
            digest = self.settlement.receipt_digest(other)
            key = self.recover(digest, arguments["signature"])
            # That of the batch is public too, with its signature, and contradicts the other one.
            return Suspicion(((other, key), (receipt_from_chain(arguments["receipt"]), None)))
        return Suspicion(receipts=self._receipts(batch))

    def _arguments(self, batch: CommittedBatch, conviction: Conviction) -> Mapping[str, Any] | None:
        """Those of the convicting call; None if another contract made it."""
        call = self.chain.called(conviction.tx_hash) or {}
        if (call.get("contract"), call.get("function")) != ("Disputes", conviction.proof):
            return None
        arguments: Mapping[str, Any] = call["args"]
        return arguments if Header.from_chain(arguments["header"]).hash == batch.hash else None

    def _receipts(self, batch: CommittedBatch) -> list[ReceiptId]:
        """Ids of the batch's receipts. Errors: `Conflict` if its data cannot be read; `Unavailable`."""
        receipts = receipts_of(batch, self.blobs, self.settlement)
        leaves = [(to_bytes(receipt_id(signed.receipt)), signed.receipt.charge) for signed in receipts]
        if not leaves or to_hash(SumTree(RECEIPTS_TAG, leaves).root) != batch.header["receiptsRoot"]:
            raise Conflict("the data does not match the roots that the batch committed to")
        return [receipt_id(signed.receipt) for signed in receipts]

    def _find_halt_reason(self, tx: UnitOfWork, batch: CommittedBatch, conviction: Conviction) -> str:
        if conviction.proof not in _TREE_PROOFS and conviction.fault not in _LEAF_FAULTS:
            return ""
        header = Header.from_chain(batch.header)
        rebuilt = self._rebuilt(tx, header, receipts_of(batch, self.blobs, self.settlement))
        if rebuilt is None or not _is_same(rebuilt, header):
            return ""
        return (
            f"batch {batch.number} was convicted by {conviction.proof}, and this installation would build it "
            "again: it deviates from the contracts' rules; settlement stops until it is updated"
        )

    def _rebuilt(self, tx: UnitOfWork, header: Header, receipts: Sequence[SignedReceipt]) -> Batch | None:
        """The batch that we would build now from these receipts; None if we would build none."""
        first = header.parent == ZERO_HASH
        parent = OperatorLedger() if first else tx.batches.ledger(self.operator, header.parent)
        terms = tx.chain.parameter_set(header.parameter_set)
        if parent is None or terms is None or not receipts:
            return None
        try:
            return build(self.operator, parent, terms, receipts, Rules(tx.chain))
        except BadReceipt:
            return None


def _convicted(batches: Iterable[CommittedBatch]) -> Iterator[tuple[CommittedBatch, Conviction]]:
    """Convicted batches, without those voided only because another one was convicted."""
    for batch in batches:
        if batch.conviction is not None and batch.conviction.convicted == batch.hash:
            yield batch, batch.conviction


def receipts_of(
    batch: CommittedBatch, blobs: BlobStore, settlement: TypedDomain
) -> tuple[SignedReceipt, ...]:
    """Receipts in the batch's data. Errors: `Conflict` if the data cannot be read; `Unavailable`."""
    receipts, finding = read_batch_data(Header.from_chain(batch.header), blobs, settlement)
    if receipts is None:
        raise Conflict(finding.message if finding else "there is none")
    return receipts


def _is_same(rebuilt: Batch, header: Header) -> bool:
    trees = (rebuilt.receipts_tree, rebuilt.entries_tree, rebuilt.balances_tree)
    ours = [(to_hash(tree.root), tree.count) for tree in trees]
    theirs = [
        (header.receipts_root, header.receipts_count),
        (header.entries_root, header.entries_count),
        (header.balances_root, header.balances_count),
    ]
    return ours == theirs
