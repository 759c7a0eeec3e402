"""Rules of payable receipts, and who earns from them. Source: docs/protocol.md, "Receipt parts"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from backend.domain.errors import InvalidInput
from backend.domain.hashing import attribution_hash, slices_hash, to_bytes
from backend.domain.money import PPM
from backend.domain.receipt import columns
from backend.domain.split import MAX_SHARES, MAX_SLICES, Parts, slice_charges, split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.ids import Account, SnapshotId, VersionId
    from backend.domain.parameters import ParameterSet
    from backend.domain.receipt import SignedReceipt, Slice, VersionRecord

POSITION_BITS = 24


def to_position(snapshot: int, index: int) -> int:
    """Position of contribution `index` of the record's snapshot number `snapshot`."""
    return snapshot << POSITION_BITS | index


def from_position(position: int) -> tuple[int, int]:
    """Snapshot number and contribution index."""
    return divmod(position, 1 << POSITION_BITS)


class BadReceipt(InvalidInput):
    """A receipt that a batch must not contain. `param` is the field, `details` are `expected` and `found`."""


class Registry(Protocol):
    """Versions and contributors on the chain. `ChainView` implements it."""

    def version(self, version: VersionId) -> VersionRecord | None: ...

    def contributor_of(self, snapshot: SnapshotId, index: int) -> Account | None:
        """The contributor; None outside the snapshot. Rejected contributions are outside and earn nothing."""
        ...


class Rules:
    """Checks receipts against the registries. Records and snapshots never change, so they are cached."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._records: dict[VersionId, VersionRecord] = {}
        self._contributors: dict[VersionId, dict[int, bytes]] = {}

    def charges(self, signed: SignedReceipt) -> tuple[int, ...]:
        """Check a receipt and return the charge of each slice. Errors: `BadReceipt`."""
        receipt, slices = signed.receipt, signed.slices
        check_weights(slices)
        records = [self.record(s.version_id) for s in slices]
        for slice_, record in zip(slices, records, strict=True):
            check_shares(slice_, record)
            self.contributors(slice_)
        _expect("slices_hash", slices_hash(slices), receipt.slices_hash)
        _expect("attribution_hash", attribution_hash(signed.method, slices), receipt.attribution_hash)
        charges = slice_charges(slices, records, receipt.prompt_tokens, receipt.completion_tokens)
        _expect("charge", sum(charges), receipt.charge, " micro-units")
        if receipt.charge == 0:
            raise BadReceipt("a batch contains no receipt without charge", "charge")
        return charges

    def record(self, version_id: VersionId) -> VersionRecord:
        record = self._records.get(version_id) or self._registry.version(version_id)
        if record is None:
            raise BadReceipt(f"version {version_id} is not registered", "version_id")
        self._records[version_id] = record
        return record

    def contributors(self, slice_: Slice) -> list[bytes]:
        """Contributors (20 bytes) of a slice's shares, in their order."""
        known = self._contributors.setdefault(slice_.version_id, {})
        positions, _ = columns(slice_.shares)
        try:
            return [known[position] for position in positions]
        except KeyError:
            for position in positions:
                known[position] = self._contributor(slice_.version_id, position)
            return [known[position] for position in positions]

    def _contributor(self, version_id: VersionId, position: int) -> bytes:
        snapshots = self.record(version_id).snapshots
        number, index = from_position(position)
        found = self._registry.contributor_of(snapshots[number], index) if number < len(snapshots) else None
        if found is None:
            raise BadReceipt(f"position {position} is outside the snapshots of {version_id}", "list")
        return to_bytes(found)

    def earnings(
        self, signed: SignedReceipt, charges: Sequence[int], operator: Account, terms: ParameterSet
    ) -> list[list[tuple[bytes, int]]]:
        """Per slice, account and amount of each part, in the order fee, operator, creator, contributors."""
        treasury, operator_bytes = to_bytes(terms.treasury), to_bytes(operator)
        earned = []
        for slice_, amount in zip(signed.slices, charges, strict=True):
            record = self.record(slice_.version_id)
            parts = split(amount, terms.fee_ppm, record.operator_ppm, record.creator_ppm, slice_.shares)
            contributors = self.contributors(slice_) or [treasury]
            accounts = [treasury, operator_bytes, to_bytes(record.creator), *contributors]
            earned.append(list(zip(accounts, _in_order(parts), strict=True)))
        return earned


def check_weights(slices: Sequence[Slice]) -> None:
    """Errors: `BadReceipt` unless there are one to four slices whose weights sum to the whole."""
    if not 1 <= len(slices) <= MAX_SLICES:
        raise BadReceipt(f"{len(slices)} slices, not 1 to {MAX_SLICES}", "slices")
    if any(s.weight_ppm <= 0 for s in slices):
        raise BadReceipt("a slice has no weight", "slices")
    _expect("slices", PPM, sum(s.weight_ppm for s in slices))


def check_shares(slice_: Slice, record: VersionRecord) -> None:
    """Check an attribution list, which is empty if and only if the version has no snapshot.

    Errors: `BadReceipt`.
    """
    shares = slice_.shares
    if not record.snapshots and not shares:
        return
    if not record.snapshots or not 1 <= len(shares) <= MAX_SHARES:
        raise BadReceipt(f"{len(shares)} shares for {len(record.snapshots)} snapshots", "list")
    last, (positions, parts) = -1, columns(shares)
    for position, ppm in zip(positions, parts, strict=True):
        if position <= last or ppm <= 0:
            raise BadReceipt(f"position {position} is out of order or has no share", "list")
        last = position
    _expect("list", PPM, sum(parts))


def _expect(what: str, expected: int | str, found: int | str, unit: str = "") -> None:
    if expected != found:
        text = f"{what} is {found}{unit}, it must be {expected}{unit}"
        raise BadReceipt(text, what, {"expected": str(expected), "found": str(found)})


def _in_order(parts: Parts) -> tuple[int, ...]:
    return (parts.fee, parts.operator, parts.creator, *parts.contributors)
