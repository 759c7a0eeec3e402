"""Entries of the registry contracts: datanets, contributions, snapshots, adapter versions, operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    """Receipt keys. The registry never removes one."""
    stake: int  # micro-units
