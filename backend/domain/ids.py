"""Distinct identifier types. Every id is a lower-case 0x-hex string, in memory, in SQL and in JSON alike."""

from __future__ import annotations

from typing import NewType

Account = NewType("Account", str)
"""20-byte address, lower-case 0x-hex (checksummed only in pages)."""

Hash32 = NewType("Hash32", str)
"""32 bytes, lower-case 0x-hex."""

ChannelId = NewType("ChannelId", Hash32)
VersionId = NewType("VersionId", Hash32)
SnapshotId = NewType("SnapshotId", Hash32)
ReceiptId = NewType("ReceiptId", Hash32)
"""The EIP-712 struct hash of the receipt: also its key in the batch's receipts tree."""

DatanetId = NewType("DatanetId", int)
Cid = NewType("Cid", str)
"""CIDv1 in base32 (`bafy...`), always of a UnixFS folder for what is published."""

ZERO_HASH = Hash32("0x" + "00" * 32)
ZERO_ACCOUNT = Account("0x" + "00" * 20)
