"""Checks the receipts of a batch one by one: finds the first provable fault and the receipts to demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.disputes.lookups import InvalidWitness
from backend.domain.disputes.proofs import BadPositionProof, BadReceiptProof
from backend.domain.disputes.receipt_rules import fault_of, is_misplaced
from backend.domain.disputes.witnesses import Fault, ReceiptWitness, SnapshotWitness
from backend.domain.hashing import (
    accepted_words,
    slices_hash,
)
from backend.domain.ids import DatanetId
from backend.domain.judging.case import Finding, Wrong
from backend.domain.rules import BadReceipt, Rules, from_position

if TYPE_CHECKING:
    from backend.domain.disputes.proofs import Proof
    from backend.domain.ids import SnapshotId
    from backend.domain.judging.case import Case, IsSigned, Registry
    from backend.domain.judging.known_receipts import KnownReceipt, KnownReceipts
    from backend.domain.receipt import SignedReceipt, VersionRecord

_WITHHELD = {
    "slices_hash": "the published slices are not those of its hash",
    "attribution_hash": "the published lists are not those of its hash",
    "signature": "no receipt key of the operator signed it",
}
_FAULTS = {
    Fault.VALUE: ("charge", "the value of its leaf is not its charge of {charge}"),
    Fault.ZERO_CHARGE: ("charge", "a batch contains no receipt without charge"),
    Fault.SLICES: ("slices", "not one to four slices with weights that sum to the whole"),
    Fault.ATTRIBUTION: ("attribution_hash", "not one attribution list per slice"),
    Fault.VERSION: ("version_id", "a version was not registered when the batch was committed"),
    Fault.LIST: ("list", "an attribution list is malformed or not of its version"),
    Fault.PRICE: ("charge", "the charge of {charge} does not follow from tokens, weights and prices"),
    Fault.PLACE: ("cumulative", "it ends at cumulative {cumulative}, outside its place in the batch"),
    Fault.POSITION: ("list", "a list names a contribution that is outside its snapshot"),
}


class CheckedReceipts:
    """The result of checking the receipts alone."""

    def __init__(self, case: Case, known: KnownReceipts, registry: Registry, is_signed: IsSigned) -> None:
        self._case, self._known, self._registry, self._is_signed = case, known, registry, is_signed
        self._rules = Rules(registry)
        self.receipts: list[KnownReceipt] = []
        """All receipts in order, if none is `unknown` or `wrong`."""
        self.wrong: Wrong | None = None
        self.unknown: list[int] = []
        """Indices to demand before anything else can be judged."""
        self.unsigned: list[int] = []
        """Indices to demand for a valid signature, which the contract requires of answers."""
        self.reason: Finding | None = None
        """Why receipts must be demanded."""
        self._check()

    def _check(self) -> None:
        missing = self._known.next_keys()
        if missing:
            self.reason = self._withheld_reason()
            self.unknown.extend(missing)
        for known in self._known.receipts():
            found = self._fault(known)
            if isinstance(found, tuple):
                self.wrong = Wrong(_finding(found[0], known), found[1])
                return
            self.receipts.append(known)
            if self._known.is_answered(known.index):
                continue
            if what := found or self._unsigned(known.signed):
                (self.unsigned if what == "signature" else self.unknown).append(known.index)
                self.reason = self.reason or _withheld(what, known)

    def _unsigned(self, signed: SignedReceipt) -> str:
        return "" if self._is_signed(signed) else "signature"

    def _fault(self, known: KnownReceipt) -> tuple[Fault, Proof] | str:
        """A fault with its proof, the field whose preimage is withheld, or an empty string."""
        header, spans, signed = self._case.header, self._case.spans, known.signed
        witness = ReceiptWitness.of(signed, known.opening, self._records(signed))
        withheld = ""
        try:
            fault = fault_of(witness, header.committed_at, self._registry)
        except InvalidWitness:
            fault, withheld = Fault.NONE, _withheld_preimage(signed)
        if fault is not Fault.NONE:
            return fault, BadReceiptProof(header, witness)
        if is_misplaced(signed.receipt, spans, known.prefix):
            return Fault.PLACE, BadReceiptProof(header, witness, spans)
        outside = None if withheld else self._outside(signed, witness)
        return withheld if outside is None else (Fault.POSITION, outside)

    def _records(self, signed: SignedReceipt) -> list[VersionRecord]:
        """Records of the slices, up to the first version that is not registered."""
        records: list[VersionRecord] = []
        for slice_ in signed.slices:
            record = self._registry.version(slice_.version_id)
            if record is None:
                break
            records.append(record)
        return records

    def _outside(self, signed: SignedReceipt, witness: ReceiptWitness) -> BadPositionProof | None:
        """Prove the first position that is outside its snapshot."""
        for number, slice_ in enumerate(signed.slices):
            try:
                self._rules.contributors(slice_)
            except BadReceipt:
                snapshots = witness.parts[number].record.snapshots
                for item, share in enumerate(slice_.shares):
                    which, index = from_position(share.position)
                    if self._registry.contributor_of(snapshots[which], index) is None:
                        snapshot = snapshot_witness(self._registry, snapshots[which])
                        return BadPositionProof(self._case.header, witness, number, item, snapshot)
        return None

    def _withheld_reason(self) -> Finding:
        """The first error of the published data."""
        if self._case.withheld is not None or not self._known.published:
            return self._case.withheld or Finding("data_missing", "the batch has no data")
        for known in self._known.as_published():
            found = self._fault(known)
            if isinstance(found, tuple):
                return _finding(found[0], known)
            if what := found or self._unsigned(known.signed):
                return _withheld(what, known)
        root, num_published = self._known.root, len(self._known.published)
        if num_published != root.count:
            text = f"{num_published} receipts are published, the batch has {root.count}"
            return Finding("receipts_count", text)
        return Finding("receipts_root", "the published receipts are not those of the batch")


def snapshot_witness(registry: Registry, snapshot: SnapshotId) -> SnapshotWitness:
    """The preimage of a snapshot's id. Errors: `InvalidWitness` if the snapshot is not known."""
    known = registry.snapshot(snapshot)
    if known is None:
        raise InvalidWitness(f"snapshot {snapshot} is not known", "snapshot")
    accepted = set(known.accepted)
    bits = accepted_words([index in accepted for index in range(known.count)])
    return SnapshotWitness(DatanetId(known.datanet), known.count, bits)


def _withheld_preimage(signed: SignedReceipt) -> str:
    is_known = slices_hash(signed.slices) == signed.receipt.slices_hash
    return "attribution_hash" if is_known else "slices_hash"


def _finding(fault: Fault, known: KnownReceipt) -> Finding:
    what, text = _FAULTS[fault]
    receipt = known.signed.receipt
    text = text.format(charge=receipt.charge, cumulative=receipt.cumulative)
    return Finding(what, f"receipt {known.index}: {text}", known.index, known.prefix)


def _withheld(what: str, known: KnownReceipt) -> Finding:
    return Finding(what, f"receipt {known.index}: {_WITHHELD[what]}", known.index, known.prefix)
