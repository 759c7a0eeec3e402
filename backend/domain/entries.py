"""Entries of a batch, and their keys in its tree of entries. Source: docs/protocol.md, "Batch".

A batch may have millions of entries, so they are packed: `receipt 4 ‖ slice 2 ‖ part 2 ‖ value 16` of each,
by account. Keys and leaves are made from that when they are needed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, overload

from backend.domain.hashing import to_bytes
from backend.domain.ids import Account

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PLACE_BYTES = 8
ITEM_BYTES = 24
"""A place and a value."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What an account earns from one part of a slice of a receipt. Parts are numbered as in `split.Parts`."""

    account: Account
    receipt: int  # index in the batch
    slice: int  # index in the receipt
    part: int
    value: int


class Entries:
    """The entries of a batch in the order of their keys. Thread-safe."""

    def __init__(self, earned: Mapping[bytes, bytes | bytearray]) -> None:
        """`earned`: by account (20 bytes), its items by rising place."""
        self._accounts = sorted(earned)
        self._items = [earned[account] for account in self._accounts]
        self._starts = list(accumulate((len(items) // ITEM_BYTES for items in self._items), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Entry]:
        for number in range(len(self._accounts)):
            yield from self._of(number)

    @property
    def accounts(self) -> list[Account]:
        """The accounts that have entries, in order."""
        return [Account("0x" + account.hex()) for account in self._accounts]

    @property
    def keys(self) -> EntryKeys:
        return EntryKeys(self)

    def sums(self) -> dict[Account, int]:
        """What each account earns."""
        read = int.from_bytes
        return {
            account: sum(
                read(items[at : at + 16], "big") for at in range(PLACE_BYTES, len(items), ITEM_BYTES)
            )
            for account, items in zip(self.accounts, self._items, strict=True)
        }

    def num_of(self, account: Account) -> int:
        """How many entries the account has."""
        number = self._number(account)
        return 0 if number is None else self._starts[number + 1] - self._starts[number]

    def of(self, account: Account) -> Iterator[Entry]:
        """The account's entries, in the order of the receipts."""
        number = self._number(account)
        return iter(()) if number is None else self._of(number)

    def key(self, index: int) -> bytes:
        return next(self.leaves(index, index + 1))[0]

    def leaves(self, start: int, stop: int) -> Iterator[tuple[bytes, int]]:
        """Key and value of the leaves from index `start` up to `stop`, or the last one."""
        stop = min(stop, len(self))
        number = bisect_right(self._starts, start) - 1
        while start < stop:
            prefix, items, first = (
                bytes(4) + self._accounts[number],
                self._items[number],
                self._starts[number],
            )
            end = min(stop, self._starts[number + 1])
            for at in range((start - first) * ITEM_BYTES, (end - first) * ITEM_BYTES, ITEM_BYTES):
                place, value = items[at : at + PLACE_BYTES], items[at + PLACE_BYTES : at + ITEM_BYTES]
                yield prefix + place, int.from_bytes(value, "big")
            start, number = end, number + 1

    def _number(self, account: Account) -> int | None:
        raw = to_bytes(account)
        number = bisect_left(self._accounts, raw)
        return number if number < len(self._accounts) and self._accounts[number] == raw else None

    def _of(self, number: int) -> Iterator[Entry]:
        account, start = Account("0x" + self._accounts[number].hex()), self._starts[number]
        for key, value in self.leaves(start, self._starts[number + 1]):
            place = int.from_bytes(key[-PLACE_BYTES:], "big")
            yield Entry(account, place >> 32, place >> 16 & 0xFFFF, place & 0xFFFF, value)


class EntryKeys(Sequence[int]):
    """A view of the keys; a list of integers would take twice the memory of the entries."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return int.from_bytes(self._entries.key(range(len(self))[index]), "big")


def entry_item(place: int, value: int) -> bytes:
    """`place` is `receipt << 32 | slice << 16 | part`. Errors: OverflowError if a number is too large."""
    return place.to_bytes(PLACE_BYTES, "big") + value.to_bytes(ITEM_BYTES - PLACE_BYTES, "big")


def entry_key(account: bytes, receipt: int, slice_: int, part: int) -> bytes:
    """`account << 64 | receipt << 32 | slice << 16 | part`, 32 bytes."""
    return bytes(4) + account + (receipt << 32 | slice_ << 16 | part).to_bytes(8, "big")
