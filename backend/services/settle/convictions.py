"""What the convictions of one's own batches mean for the next one: the same mistake is not paid for twice.

A receipt that was itself convicted is *set aside*: it is never settled again. Where the trees were convicted
and this installation would build the very same ones, it does not keep the contracts' rules, and nothing is
settled. An unanswered demand convicts nothing but a silence: those receipts are settled again.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.domain.batch import Header, OperatorLedger, build
from backend.domain.disputes.witnesses import Fault
from backend.domain.errors import Conflict
from backend.domain.hashing import receipt_id, to_bytes, to_hash
from backend.domain.ids import ZERO_HASH, Hash32
from backend.domain.merkle import RECEIPTS_TAG, SumTree
from backend.domain.rules import BadReceipt, Rules
from backend.services.audit.published import published

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.batch import Batch
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ReceiptId
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import CommittedBatch, Conviction
    from backend.ports.chain import Chain, ChainView
    from backend.ports.storage import BlobStore

log = logging.getLogger(__name__)

Case = tuple[Hash32, Hash32]
"""A batch and the transaction that convicted it."""

_OF_THE_TREES = {"proveWrongEntry", "proveWrongBalance", "proveWrongOrder", "proveZeroLeaf"}
_OF_THE_PLACE = {Fault.VALUE, Fault.PLACE}
"""Faults of a receipt's leaf, not of the receipt."""


@dataclass(frozen=True, slots=True)
class Lessons:
    aside: Mapping[ReceiptId, str]
    """Receipts that are never settled again, and why."""
    objection: str = ""
    """Why nothing may be settled at all."""


@dataclass(frozen=True)
class Convictions:
    """Of one operator's batches, as the chain's view has them: a void that falls out of it taught nothing.

    Errors of its methods: `Unavailable` if chain or store cannot be reached.
    """

    operator: Account
    chain: Chain
    blobs: BlobStore
    settlement: TypedDomain
    _aside: dict[Case, dict[ReceiptId, str]] = field(default_factory=dict)
    _objections: dict[Case, str] = field(default_factory=dict)
    """What was found before: to find it reads and hashes much, and it never changes."""

    def lessons(self, tx: UnitOfWork) -> Lessons:
        aside: dict[ReceiptId, str] = {}
        objection, finalised = "", tx.chain.finalised(self.operator)
        for batch, conviction in self._convicted(tx.chain):
            try:
                aside |= self._set_aside(batch, conviction)
                # Once its number is final again, an honest batch has taken its place.
                if not objection and batch.number > finalised:
                    objection = self._object(tx, batch, conviction)
            except Conflict as error:
                objection = f"batch {batch.number} was convicted and its data cannot be read: {error}"
        return Lessons(aside, objection)

    def aside(self, view: ChainView) -> Mapping[ReceiptId, str]:
        """As in `lessons`, as far as the data of the convicted batches can be read."""
        aside: dict[ReceiptId, str] = {}
        for batch, conviction in self._convicted(view):
            with suppress(Conflict):
                aside |= self._set_aside(batch, conviction)
        return aside

    def _convicted(self, view: ChainView) -> Iterator[tuple[CommittedBatch, Conviction]]:
        """Without those that fell only because one before them did."""
        for batch in view.batches(self.operator):
            if batch.conviction is not None and batch.conviction.convicted == batch.hash:
                yield batch, batch.conviction

    def _set_aside(self, batch: CommittedBatch, conviction: Conviction) -> dict[ReceiptId, str]:
        case = (batch.hash, conviction.tx_hash)
        if case not in self._aside:
            self._aside[case] = self._find_aside(batch, conviction)
            for receipt, why in self._aside[case].items():
                log.error("receipt %s is set aside: %s", receipt, why)
        return self._aside[case]

    def _object(self, tx: UnitOfWork, batch: CommittedBatch, conviction: Conviction) -> str:
        case = (batch.hash, conviction.tx_hash)
        if case not in self._objections:
            self._objections[case] = self._find_objection(tx, batch, conviction)
        return self._objections[case]

    def _find_aside(self, batch: CommittedBatch, conviction: Conviction) -> dict[ReceiptId, str]:
        if conviction.proof == "proveEquivocation":
            index = self._equivocated(batch, conviction)
        elif conviction.fault is not None and conviction.fault not in _OF_THE_PLACE:
            index = conviction.receipt
        else:
            return {}
        receipts = receipts_of(batch, self.blobs, self.settlement)
        leaves = [(to_bytes(receipt_id(signed.receipt)), signed.receipt.charge) for signed in receipts]
        if not leaves or to_hash(SumTree(RECEIPTS_TAG, leaves).root) != batch.header["receiptsRoot"]:
            raise Conflict("it is not what the batch committed to")
        # Evidence that came through another contract names nobody to us: then all are suspect.
        guilty = receipts if index is None else receipts[index : index + 1]
        fault = "" if conviction.fault is None else f" ({conviction.fault.name.lower()})"
        why = f"convicted by {conviction.proof}{fault} in batch {batch.number}; it is never settled again"
        return {receipt_id(signed.receipt): why for signed in guilty}

    def _equivocated(self, batch: CommittedBatch, conviction: Conviction) -> int | None:
        """The receipt's place in the batch, by the evidence that the conviction's transaction showed."""
        call = self.chain.called(conviction.tx_hash) or {}
        if (call.get("contract"), call.get("function")) != ("Disputes", conviction.proof):
            return None
        args = call["args"]
        is_this = Header.from_chain(args["header"]).hash == batch.hash
        return int(args["opening"]["index"]) if is_this else None

    def _find_objection(self, tx: UnitOfWork, batch: CommittedBatch, conviction: Conviction) -> str:
        if conviction.proof not in _OF_THE_TREES and conviction.fault not in _OF_THE_PLACE:
            return ""
        header = Header.from_chain(batch.header)
        rebuilt = self._rebuilt(tx, header, receipts_of(batch, self.blobs, self.settlement))
        if rebuilt is None or not _is_same(rebuilt, header):
            return ""
        return (
            f"batch {batch.number} was convicted by {conviction.proof}, yet this installation would build "
            "the same one again: it deviates from the contracts' rules and settles nothing until updated"
        )

    def _rebuilt(self, tx: UnitOfWork, header: Header, receipts: Sequence[SignedReceipt]) -> Batch | None:
        """The batch as we would build it now; None if we would not."""
        first = header.parent == ZERO_HASH
        parent = OperatorLedger() if first else tx.batches.ledger(self.operator, header.parent)
        terms = tx.chain.parameter_set(header.parameter_set)
        if parent is None or terms is None or not receipts:
            return None
        try:
            return build(self.operator, parent, terms, receipts, Rules(tx.chain))
        except BadReceipt:
            return None


def receipts_of(
    batch: CommittedBatch, blobs: BlobStore, settlement: TypedDomain
) -> tuple[SignedReceipt, ...]:
    """What its data holds. Errors: `Conflict` if that cannot be read; `Unavailable`."""
    receipts, why_not = published(Header.from_chain(batch.header), blobs, settlement)
    if receipts is None:
        raise Conflict(why_not.message if why_not else "there is none")
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
