"""Rules of batched receipts, evaluated on a witness. Twin of `ReceiptRules.sol` and `Spans.sol`.

Only faults of the receipt itself are returned. `InvalidWitness` is raised where the contract reverts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from backend.domain.batch import pack_spans
from backend.domain.disputes.lookups import InvalidWitness
from backend.domain.disputes.witnesses import ITEM, SLICE, Fault, unpack_list
from backend.domain.hashing import keccak, snapshot_id, to_hash, version_id
from backend.domain.ids import VersionId
from backend.domain.money import PPM, mul_ppm_down
from backend.domain.rules import from_position
from backend.domain.split import MAX_SHARES, MAX_SLICES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.domain.batch import Span
    from backend.domain.disputes.witnesses import ReceiptWitness, SliceWitness, SnapshotWitness
    from backend.domain.receipt import Receipt, VersionRecord


METHOD_WORD = re.compile(rb"(?=.{32}\Z)[!-~]+\0*", re.DOTALL)
"""A method of 1 to 32 characters, as `bytes32`. Batch data can state no other."""


class Registrations(Protocol):
    def registered_at(self, version: VersionId) -> int | None:
        """Unix seconds of the registration; None if it is not registered."""
        ...


def fault_of(witness: ReceiptWitness, committed_at: int, versions: Registrations) -> Fault:
    """The receipt's first fault, except `PLACE` and `POSITION`."""
    receipt, value = witness.receipt, witness.opening.value
    if value != receipt.charge:
        return Fault.VALUE
    if value == 0:
        return Fault.ZERO_CHARGE
    _check_preimage(receipt.slices_hash, witness.slices)
    if not _are_slices(witness.slices):
        return Fault.SLICES
    _check_preimage(receipt.attribution_hash, witness.attribution)
    if len(witness.attribution) != 32 * (len(witness.slices) // SLICE + 1):
        return Fault.ATTRIBUTION
    if not METHOD_WORD.fullmatch(witness.attribution[:32]):
        return Fault.ATTRIBUTION
    return _fault_of_slices(witness, committed_at, versions)


def _fault_of_slices(witness: ReceiptWitness, committed_at: int, versions: Registrations) -> Fault:
    charge = 0
    for number in range(len(witness.slices) // SLICE):
        registered_at = versions.registered_at(version_at(witness.slices, number))
        if registered_at is None or registered_at > committed_at:
            return Fault.VERSION
        part = checked_slice(witness, number)
        if not _is_list(part.packed_list, len(part.record.snapshots)):
            return Fault.LIST
        charge += charge_of(witness, number)
    return Fault.NONE if charge == witness.opening.value else Fault.PRICE


def check_preimages(witness: ReceiptWitness) -> None:
    """Errors: `InvalidWitness` unless the witness has the preimages of the receipt's hashes."""
    _check_preimage(witness.receipt.slices_hash, witness.slices)
    _check_preimage(witness.receipt.attribution_hash, witness.attribution)


def checked_slice(witness: ReceiptWitness, number: int) -> SliceWitness:
    """The witness of a slice. Errors: `InvalidWitness` unless its record and list are the receipt's."""
    if not 0 <= number < len(witness.parts):
        raise InvalidWitness(f"no witness of slice {number}", "parts")
    part = witness.parts[number]
    if version_id(part.record) != version_at(witness.slices, number):
        raise InvalidWitness("the record of another version", "record")
    _check_preimage(to_hash(_cut(witness.attribution, 32 * (number + 1), 32)), part.packed_list)
    return part


def charge_of(witness: ReceiptWitness, number: int) -> int:
    """Charge of a slice, in micro-units."""
    record, receipt = witness.parts[number].record, witness.receipt
    full = receipt.prompt_tokens * record.prompt_price + receipt.completion_tokens * record.completion_price
    return mul_ppm_down(full, _weight_at(witness.slices, number))


def position_at(packed_list: bytes, item: int) -> tuple[int, int]:
    """Snapshot number and contribution index of a list's item."""
    return from_position(int.from_bytes(_cut(packed_list, item * ITEM, 4), "big"))


def is_in_snapshot(record: VersionRecord, number: int, index: int, witness: SnapshotWitness) -> bool:
    """Whether a contribution was accepted in the record's snapshot `number`."""
    if number >= len(record.snapshots):
        raise InvalidWitness(f"the version has no snapshot {number}", "snapshot")
    found = snapshot_id(witness.datanet, witness.count, to_hash(keccak(witness.accepted)))
    if found != record.snapshots[number]:
        raise InvalidWitness("not the preimage of the snapshot's id", "snapshot")
    if index >= witness.count:
        return False
    bits = int.from_bytes(_cut(witness.accepted, (index >> 8) * 32, 32), "big")
    return bool(bits >> (index & 0xFF) & 1)


def version_at(slices: bytes, number: int) -> VersionId:
    return VersionId(to_hash(_cut(slices, number * SLICE, 32)))


def is_misplaced(receipt: Receipt, spans: Iterable[Span], prefix: int) -> bool:
    """Whether a receipt is outside its place in the batch. `prefix` is the sum of the receipts before it."""
    offset, begin = 0, receipt.cumulative - receipt.charge
    for span in spans:
        if span.channel_id == receipt.channel_id:
            is_inside = span.start <= begin and receipt.cumulative <= span.until
            return not is_inside or prefix != offset + begin - span.start
        offset += span.amount
    return True


def overlap(receipt: Receipt, other: Receipt) -> bool:
    """Whether two receipts of one channel charge an overlapping interval of its cumulative."""
    begins_before = receipt.cumulative - receipt.charge < other.cumulative
    ends_after = other.cumulative - other.charge < receipt.cumulative
    return begins_before and ends_after and receipt.charge != 0 and other.charge != 0


def conflict(receipt: Receipt, other: Receipt) -> bool:
    """Whether `Disputes` accepts two receipts of one operator as an equivocation."""
    is_possible = receipt.channel_id == other.channel_id and receipt != other
    return is_possible and other.charge <= other.cumulative and overlap(receipt, other)


def check_spans(spans: Iterable[Span], expected: str) -> bytes:
    """Pack spans. Errors: `InvalidWitness` if they are not the preimage of the hash."""
    packed = pack_spans(spans)
    _check_preimage(expected, packed)
    return packed


def _check_preimage(expected: str, preimage: bytes) -> None:
    if to_hash(keccak(preimage)) != expected:
        raise InvalidWitness("not the preimage of its hash", "witness")


def _are_slices(slices: bytes) -> bool:
    count = len(slices) // SLICE
    if len(slices) % SLICE or not 1 <= count <= MAX_SLICES:
        return False
    weights = [_weight_at(slices, number) for number in range(count)]
    return 0 not in weights and sum(weights) == PPM


def _is_list(packed: bytes, num_snapshots: int) -> bool:
    if num_snapshots == 0:
        return not packed
    shares = unpack_list(packed)
    if len(packed) % ITEM or not 1 <= len(shares) <= MAX_SHARES:
        return False
    last = -1
    for share in shares:
        if share.position <= last or share.ppm == 0:
            return False
        last = share.position
    return sum(share.ppm for share in shares) == PPM and from_position(last)[0] < num_snapshots


def _weight_at(slices: bytes, number: int) -> int:
    return int.from_bytes(_cut(slices, number * SLICE + 32, 4), "big")


def _cut(raw: bytes, at: int, size: int) -> bytes:
    if at + size > len(raw):
        raise InvalidWitness("the witness is too short", "witness")
    return raw[at : at + size]
