"""Adapter slots: which adapters are active on the device, and in which rows of the arena."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference.lora.layers import AdapterArena
    from inference.lora.stack import Stack


@dataclass(slots=True)
class _Slot:
    digest: str
    rows: slice
    num_users: int
    last_used: int


class AdapterSlots:
    """LRU over a fixed number of slots and rows. A slot in use by a running request is never taken."""

    def __init__(self, arena: AdapterArena, num_slots: int) -> None:
        self._arena = arena
        self._slots: list[_Slot | None] = [None] * num_slots
        self._slot_by_digest: dict[str, int] = {}
        self._clock = 0

    @property
    def active_digests(self) -> list[str]:
        return list(self._slot_by_digest)

    @property
    def rows_by_slot(self) -> list[slice | None]:
        return [None if slot is None else slot.rows for slot in self._slots]

    def is_active(self, digest: str) -> bool:
        return digest in self._slot_by_digest

    def reuse(self, digest: str) -> int | None:
        """Take one more use of an adapter that is active already; None when it is not."""
        number = self._slot_by_digest.get(digest)
        return None if number is None else self._use(number)

    def activate(self, stack: Stack) -> int | None:
        """Copy `stack` into a slot and take a use of it; None when all slots or rows are in use."""
        number = self._slot_by_digest.get(stack.digest)
        if number is None:
            place = self._make_room(stack.rank)
            if place is None:
                return None
            number, rows = place
            self._arena.write(stack, number, rows)
            self._slots[number] = _Slot(stack.digest, rows, 0, self._clock)
            self._slot_by_digest[stack.digest] = number
        return self._use(number)

    def release(self, number: int) -> None:
        self._held(number).num_users -= 1

    def check_integrity(self, num_users_by_slot: dict[int, int]) -> None:
        """Compare with the uses that running requests say they hold. Raises `AssertionError`."""
        ranges = sorted((slot.rows.start, slot.rows.stop) for slot in self._slots if slot is not None)
        for (_, stop), (start, _) in itertools.pairwise(ranges):
            if start < stop:
                raise AssertionError(f"arena rows overlap: {ranges}")
        for number, slot in enumerate(self._slots):
            expected = num_users_by_slot.get(number, 0)
            if (slot.num_users if slot else 0) != expected:
                raise AssertionError(f"slot {number} counts {slot and slot.num_users} users, not {expected}")
            if slot is not None and self._slot_by_digest.get(slot.digest) != number:
                raise AssertionError(f"slot {number} is not filed under its digest")
        if len(self._slot_by_digest) != sum(slot is not None for slot in self._slots):
            raise AssertionError("digests and slots differ in number")

    def _held(self, number: int) -> _Slot:
        slot = self._slots[number]
        if slot is None:
            raise ValueError(f"slot {number} holds no adapter")
        return slot

    def _use(self, number: int) -> int:
        slot = self._held(number)
        self._clock += 1
        slot.last_used = self._clock
        slot.num_users += 1
        return number

    def _make_room(self, rank: int) -> tuple[int, slice] | None:
        """A free slot and `rank` free rows in a row, evicting idle adapters, least recently used first."""
        idle = [n for n, slot in enumerate(self._slots) if slot is not None and slot.num_users == 0]
        idle.sort(key=lambda number: self._held(number).last_used)
        if not self._could_fit(rank, set(idle)):
            return None
        while (rows := self._find_rows(rank, frozenset())) is None or None not in self._slots:
            self._evict(idle.pop(0))
        return self._slots.index(None), rows

    def _could_fit(self, rank: int, idle: set[int]) -> bool:
        has_slot = bool(idle) or None in self._slots
        return has_slot and self._find_rows(rank, frozenset(idle)) is not None

    def _find_rows(self, rank: int, ignored: frozenset[int]) -> slice | None:
        """First gap of `rank` rows, as if the slots `ignored` were empty."""
        kept = (s.rows for n, s in enumerate(self._slots) if s is not None and n not in ignored)
        position = 0
        for rows in sorted(kept, key=lambda rows: rows.start):
            if rows.start - position >= rank:
                break
            position = rows.stop
        return slice(position, position + rank) if position + rank <= self._arena.num_rows else None

    def _evict(self, number: int) -> None:
        del self._slot_by_digest[self._held(number).digest]
        self._slots[number] = None
        self._arena.erase(number)
