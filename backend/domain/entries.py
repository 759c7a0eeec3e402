"""Entries of a batch, and their keys in its tree of entries. Source: docs/protocol.md, "Batch"."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.hashing import to_bytes

if TYPE_CHECKING:
    from backend.domain.ids import Account
    from backend.domain.merkle import SumTree

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Entry:
    """What an account earns from one part of a slice of a receipt. Parts are numbered as in `split.Parts`."""

    account: Account
    receipt: int  # index in the batch
    slice: int  # index in the receipt
    part: int
    value: int


def find_entries(keys: bytes, tree: SumTree, account: Account) -> list[Entry]:
    """The account's entries in a tree with these keys, in the order of the receipts."""
    raw = to_bytes(account)
    first = first_key(keys, entry_key(raw, 0, 0, 0))
    last = first_key(keys, entry_key(raw, (1 << 32) - 1, (1 << 16) - 1, (1 << 16) - 1))
    entries = []
    for index in range(first, last):
        place = int.from_bytes(key_at(keys, index)[-8:], "big")
        value = tree.value(index)
        entries.append(Entry(account, place >> 32, place >> 16 & 0xFFFF, place & 0xFFFF, value))
    return entries


def first_key(keys: bytes, key: bytes) -> int:
    """Index of the first of the keys that is this one or larger."""
    return bisect_left(range(len(keys) // KEY_BYTES), key, key=lambda index: key_at(keys, index))


def key_at(keys: bytes, index: int) -> bytes:
    return keys[index * KEY_BYTES : (index + 1) * KEY_BYTES]


def entry_key(account: bytes, receipt: int, slice_: int, part: int) -> bytes:
    """`account << 64 | receipt << 32 | slice << 16 | part`, 32 bytes."""
    return bytes(4) + account + (receipt << 32 | slice_ << 16 | part).to_bytes(8, "big")
