"""Entries of the registry contracts: datanets, contributions, snapshots, adapter versions, operators."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.ids import Account, DatanetId, Hash32, SnapshotId, VersionId
    from backend.domain.receipt import VersionRecord


@dataclass(frozen=True, slots=True)
class Datanet:
    id: DatanetId
    creator: Account
    name: str
    cid_digest: Hash32
    """Digest of the CID of the folder with its description."""
    num_contributions: int
    """Number of admitted contributions."""


@dataclass(frozen=True, slots=True)
class Contribution:
    datanet: DatanetId
    index: int | None
    """Index in the datanet, from 0 in order of admission; None until the curators first accept it."""
    contributor: Account
    content_hash: Hash32
    cid_digest: Hash32
    licence: Hash32
    """SPDX expression in ASCII, left-aligned, zero-padded (its keccak if longer than 32 bytes)."""
    num_rows: int
    is_accepted: bool | None
    """None until the curators decide."""
    reason: int
    """The curators' machine-readable code, zero for none."""
    recorded_at: int  # unix seconds
    block_number: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    id: SnapshotId
    datanet: DatanetId
    count: int
    """Number of the datanet's admitted contributions that it covers, counted from the first."""
    accepted_hash: Hash32
    accepted: tuple[int, ...]
    """Indices of the accepted contributions, rising."""
    block_number: int


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    id: VersionId
    record: VersionRecord
    is_deprecated: bool
    block_number: int


@dataclass(frozen=True, slots=True)
class Operator:
    account: Account
    endpoint: str
    """Base URL; empty while it does not serve."""
    keys: tuple[Account, ...]
    """Receipt keys in the order of their registration, retired ones included."""
    stake: int  # micro-units
    retired: Mapping[Account, int] = field(default_factory=dict)
    """When each retired receipt key was retired, in unix seconds."""

    @property
    def active_keys(self) -> tuple[Account, ...]:
        """The receipt keys that are not retired, in the order of their registration."""
        return tuple(key for key in self.keys if key not in self.retired)

    def is_receipt_key(self, key: Account, committed_at: int) -> bool:
        """Whether signatures of `key` count for a batch committed at `committed_at` (unix seconds).

        Twin of `OperatorRegistry.isReceiptKey`.
        """
        return key in self.keys and (key not in self.retired or committed_at <= self.retired[key])
