"""Distinct identifier types. Hex ids are lower-case 0x-hex strings in memory, SQL and JSON."""

from __future__ import annotations

from typing import NewType

Account = NewType("Account", str)
"""20-byte address, lower-case 0x-hex."""

Hash32 = NewType("Hash32", str)
"""32 bytes, lower-case 0x-hex."""

ChannelId = NewType("ChannelId", Hash32)
VersionId = NewType("VersionId", Hash32)
SnapshotId = NewType("SnapshotId", Hash32)
ReceiptId = NewType("ReceiptId", Hash32)
"""EIP-712 struct hash of the receipt, which is its key in the receipts tree."""
ChargeId = NewType("ChargeId", Hash32)
"""EIP-712 struct hash of a charge, under which its receipt is found once it exists."""

DatanetId = NewType("DatanetId", int)
Cid = NewType("Cid", str)
"""CIDv1 in base32 (`bafy...`). Published content is always a UnixFS folder."""

ZERO_HASH = Hash32("0x" + "00" * 32)
ZERO_ACCOUNT = Account("0x" + "00" * 20)
