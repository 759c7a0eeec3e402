from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.lora.blend import Blend
from inference.lora.slots import AdapterSlots

if TYPE_CHECKING:
    from inference.lora.arena import AdapterArena

NUM_ROWS = 16


class Rows:
    """Stands for the arena: records which adapter was written to each row."""

    num_rows = NUM_ROWS

    def __init__(self, num_slots: int) -> None:
        self.owner: list[str | None] = [None] * NUM_ROWS
        self.rows_by_slot: list[slice | None] = [None] * num_slots

    def write(self, blend: Blend, slot: int, rows: slice) -> None:
        assert rows.stop - rows.start == blend.rank
        self.owner[rows] = [blend.digest] * blend.rank
        self.rows_by_slot[slot] = rows

    def erase(self, slot: int) -> None:
        self.rows_by_slot[slot] = None


def blend(name: int) -> Blend:
    return Blend(str(name), (), 1 + name % 7)


def make(num_slots: int) -> tuple[AdapterSlots, Rows]:
    rows = Rows(num_slots)
    arena: AdapterArena = rows  # type: ignore[assignment]
    return AdapterSlots(arena, num_slots), rows


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60), st.integers(1, 5))
def test_rows_of_adapters_in_use_are_never_touched(
    operations: list[tuple[bool, int]], num_slots: int
) -> None:
    """Activate adapter n, or release the n-th use; every used adapter keeps its rows."""
    slots, rows = make(num_slots)
    uses: list[tuple[int, Blend]] = []
    for is_activation, n in operations:
        if is_activation:
            number = slots.activate(blend(n))
            if number is not None:
                uses.append((number, blend(n)))
        elif uses:
            number, _ = uses.pop(n % len(uses))
            slots.release(number)
        for number, used in uses:
            place = rows.rows_by_slot[number]
            assert place is not None
            assert rows.owner[place] == [used.digest] * used.rank
        slots.check_integrity(Counter(number for number, _ in uses))


def test_an_idle_engine_can_activate_any_blend() -> None:
    slots, _ = make(4)
    for n in (6, 13, 5, 12, 3):
        number = slots.activate(blend(n))
        assert number is not None
        slots.release(number)


def test_the_least_recently_used_is_evicted() -> None:
    slots, _ = make(2)
    for n in (0, 1, 0):
        slots.release(slots.activate(blend(n)))  # type: ignore[arg-type]
    slots.activate(blend(2))
    assert set(slots.active_digests) == {"0", "2"}


def test_nothing_is_evicted_when_it_would_not_help() -> None:
    slots, _ = make(3)
    slots.activate(blend(6))  # 7 rows, in use
    slots.activate(blend(13))  # 7 more, in use
    slots.release(slots.activate(blend(1)))  # type: ignore[arg-type]  # the last 2, idle
    assert slots.activate(blend(4)) is None
    assert slots.is_active("1")
