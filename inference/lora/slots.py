"""Adapter slots of the device: assigns slots and arena rows to adapters, and evicts by LRU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from inference.lora.arena import AdapterArena
    from inference.lora.blend import Blend


@dataclass(slots=True)
class _Slot:
    digest: str
    num_users: int
    last_used: int
    invocation: tuple[int, ...]


class AdapterSlots:
    """LRU over a fixed number of slots and rows. The slot of a running request is never evicted.

    The arena stores the rows of each slot.
    """

    def __init__(self, arena: AdapterArena, num_slots: int) -> None:
        self._arena = arena
        self._slots: list[_Slot | None] = [None] * num_slots
        self._slot_by_digest: dict[str, int] = {}
        self._clock = 0

    @property
    def active_digests(self) -> list[str]:
        return list(self._slot_by_digest)

    def is_active(self, digest: str) -> bool:
        return digest in self._slot_by_digest

    def invocation(self, digest: str) -> tuple[int, ...]:
        """`Blend.invocation` of an active adapter."""
        return self._slot(self._slot_by_digest[digest]).invocation

    def num_rows(self, digest: str) -> int:
        """Rows of an active adapter."""
        rows = self._arena.rows_by_slot[self._slot_by_digest[digest]]
        return 0 if rows is None else rows.stop - rows.start

    def reuse(self, digest: str) -> int | None:
        """Add a user to the slot of an active adapter; None if it is not active."""
        number = self._slot_by_digest.get(digest)
        return None if number is None else self._use(number)

    def activate(self, blend: Blend) -> int | None:
        """Copy `blend` into a slot, unless it is active, and add a user; None when all slots or rows are in
        use.
        """
        number = self._slot_by_digest.get(blend.digest)
        if number is None:
            allocated = self._allocate(blend.rank)
            if allocated is None:
                return None
            number, rows = allocated
            self._arena.write(blend, number, rows)
            self._slots[number] = _Slot(blend.digest, 0, self._clock, blend.invocation)
            self._slot_by_digest[blend.digest] = number
        return self._use(number)

    def release(self, number: int) -> None:
        """Remove a user; the adapter stays active until it is evicted."""
        self._slot(number).num_users -= 1

    def check_integrity(self, num_users_by_slot: dict[int, int]) -> None:
        """Compare with the slots that running requests hold. Raises `AssertionError`."""
        for number, slot in enumerate(self._slots):
            expected = num_users_by_slot.get(number, 0)
            if (slot.num_users if slot else 0) != expected:
                raise AssertionError(f"slot {number} counts {slot and slot.num_users} users, not {expected}")
            if slot is not None and self._slot_by_digest.get(slot.digest) != number:
                raise AssertionError(f"slot {number} is not found by its digest")
        if len(self._slot_by_digest) != sum(slot is not None for slot in self._slots):
            raise AssertionError("the numbers of digests and of filled slots differ")

    def _slot(self, number: int) -> _Slot:
        slot = self._slots[number]
        if slot is None:
            raise ValueError(f"slot {number} holds no adapter")
        return slot

    def _use(self, number: int) -> int:
        slot = self._slot(number)
        self._clock += 1
        slot.last_used = self._clock
        slot.num_users += 1
        return number

    def _allocate(self, rank: int) -> tuple[int, slice] | None:
        """A free slot and `rank` contiguous free rows, evicting idle adapters, least recently used first."""
        idle = [n for n, slot in enumerate(self._slots) if slot is not None and slot.num_users == 0]
        idle.sort(key=lambda number: self._slot(number).last_used)
        if not self._can_allocate(rank, set(idle)):
            return None
        while (rows := self._find_rows(rank, frozenset())) is None or None not in self._slots:
            self._evict(idle.pop(0))
        return self._slots.index(None), rows

    def _can_allocate(self, rank: int, idle: AbstractSet[int]) -> bool:
        has_slot = bool(idle) or None in self._slots
        return has_slot and self._find_rows(rank, idle) is not None

    def _find_rows(self, rank: int, ignored: AbstractSet[int]) -> slice | None:
        """The first gap of `rank` rows, treating the slots `ignored` as empty."""
        used = (
            rows for n, rows in enumerate(self._arena.rows_by_slot) if rows is not None and n not in ignored
        )
        position = 0
        for rows in sorted(used, key=lambda rows: rows.start):
            if rows.start - position >= rank:
                break
            position = rows.stop
        return slice(position, position + rank) if position + rank <= self._arena.num_rows else None

    def _evict(self, number: int) -> None:
        del self._slot_by_digest[self._slot(number).digest]
        self._slots[number] = None
        self._arena.erase(number)
