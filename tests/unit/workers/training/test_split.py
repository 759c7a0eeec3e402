"""Which rows are held out, of honest contributions and of those that aim at the rows of others."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from workers.training.rows import IGNORED, Example, UnusableRows, encode
from workers.training.split import hold_out, merge_groups, num_shared

if TYPE_CHECKING:
    from pathlib import Path


def example(group: str, contribution: int = 0, question: str = "") -> Example:
    return Example(contribution, group, (1, 2), (IGNORED, 2), question)


def test_rows_about_one_object_stay_on_one_side() -> None:
    rows = [example(f"object {i // 3}") for i in range(60)]
    train, held_out, unused = hold_out(rows, 0.1, seed=1)
    assert (len(held_out), unused) == (6, [])
    assert not {row.group for row in train} & {row.group for row in held_out}
    assert Counter(row.group for row in [*train, *held_out]) == Counter(row.group for row in rows)


def test_the_same_question_stays_on_one_side_with_and_without_a_source(tiny_base: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_base)

    def row(question: str, **source: str) -> Example:
        return encode(0, {"prompt": question, "completion": "A.", **source}, tokenizer, 100)

    rows = [row(f"What is {i // 3}?", source=f"object {i // 3}") for i in range(60)]
    bare = [row(f" what  IS {i}? ") for i in range(20)]
    texts = [encode(0, {"text": "Once.", **source}, tokenizer, 9) for source in ({}, {"source": "s"})]
    split = hold_out([*rows, *bare, *texts], 0.2, seed=1)
    assert (len(split.held_out), len(split.unused), num_shared(split.train, split.held_out)) == (16, 1, 0)


def test_groups_are_joined_over_any_number_of_links() -> None:
    links = ["d4", "b2", "c3", "b3", "a2", "c4"]
    rows = [example(group, question=question) for group, question in links]
    expected = {"a": "a", "b": "a", "c": "a", "d": "a", "e": "e", "f": "f"}
    assert merge_groups([*rows, example("e"), example("f")]) == expected


def test_the_held_out_rows_depend_on_names_and_seed_and_not_on_order() -> None:
    rows = [example(f"object {i}") for i in range(40)]
    first = {row.group for row in hold_out(rows, 0.2, 1).held_out}
    assert {row.group for row in hold_out(rows[::-1], 0.2, 1).held_out} == first
    assert {row.group for row in hold_out(rows, 0.2, 2).held_out} != first


def test_a_single_object_cannot_be_measured() -> None:
    with pytest.raises(UnusableRows):
        hold_out([example("a"), example("a")], 0.5, 0)


def parts(rows: list[Example]) -> dict[int, int]:
    return dict(Counter(row.contribution for row in rows))


def test_links_to_the_rows_of_others_change_neither_how_many_are_trained_nor_what_is_asked() -> None:
    honest = [example(f"object {i}", i % 4, f"question {i}") for i in range(200)]
    bridges = [example("0", 4, f"question {i}") for i in range(200)]
    own = [example(f"own {i}", 4) for i in range(60)]
    train, held_out, unused = hold_out([*honest, *bridges, *own], 0.1, seed=0)
    assert parts(train) == {0: 45, 1: 45, 2: 45, 3: 45, 4: 234}
    assert parts(held_out) == {4: 26}
    assert parts(unused) == {0: 5, 1: 5, 2: 5, 3: 5}


def test_one_source_for_all_rows_spares_none_of_them_and_costs_no_other_contribution() -> None:
    whole = [example("fastapi", 0, f"question {i}") for i in range(50)]
    other = [example("x", 1, f"another {i}") for i in range(60)]
    split = hold_out([*whole, *other], 0.1, seed=0)
    assert (parts(split.train), parts(split.held_out)) == ({0: 45, 1: 54}, {0: 5, 1: 6})
    # No group fits, so that its rows have to be held out.
    assert (split.unused, num_shared(split.train, split.held_out)) == ([], 11)
    split = hold_out([*whole, *(example(f"object {i}", 1) for i in range(60))], 0.1, seed=0)
    assert (parts(split.train), parts(split.held_out)) == ({0: 45, 1: 54}, {1: 6})
    assert (parts(split.unused), num_shared(split.train, split.held_out)) == ({0: 5}, 0)


def test_no_name_of_a_row_moves_the_rows_of_others() -> None:
    honest = [example(f"object {i}", 0) for i in range(50)]
    names = ("a", "b", "zzz")
    found = [
        hold_out([*honest, *(example(f"{n} {i}", 1) for i in range(90))], 0.2, 0).held_out for n in names
    ]
    assert len({tuple(row for row in held_out if row.contribution == 0) for held_out in found}) == 1


def test_rows_that_all_share_questions_with_others_are_drawn_from_each_contribution() -> None:
    rows = [example(f"object {i}", contribution) for contribution in range(3) for i in range(20)]
    train, held_out, unused = hold_out(rows, 0.1, seed=0)
    assert parts(held_out) == {0: 2, 1: 2, 2: 2}
    assert (len(train), unused) == (54, [])


def test_small_contributions_give_up_as_many_rows_in_all_as_large_ones() -> None:
    rows = [example(f"object {i}", i) for i in range(2000)]
    assert 150 < len(hold_out(rows, 0.1, seed=0).held_out) < 250


def test_what_is_held_out_of_small_contributions_is_divided_by_a_second_draw() -> None:
    rows = [example(f"object {i}", i) for i in range(600)]
    held_out = hold_out(rows, 0.1, seed=0).held_out
    train, evaluated, _ = hold_out(held_out, 0.5, "0:stopping")
    assert min(len(train), len(evaluated)) > len(held_out) / 3


@given(
    groups=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 9)), min_size=1),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(0, 99),
)
def test_each_side_has_rows_and_each_contribution_trains_its_part(
    groups: list[tuple[int, int, int]], fraction: float, seed: int
) -> None:
    rows = [example(f"object {group}", number, f"question {asked}") for number, group, asked in groups]
    try:
        split = hold_out(rows, fraction, seed)
    except UnusableRows:
        assert len({row.contribution for row in rows}) == 1
        assert len(set(merge_groups(rows).values())) == 1
        return
    train, held_out, unused = split
    assert train
    assert held_out
    assert Counter(map(id, [*train, *held_out, *unused])) == Counter(map(id, rows))
    totals, trained = parts(rows), parts(train)
    given_up = {number: total - trained.get(number, 0) for number, total in totals.items()}
    assert all(count < fraction * totals[number] + 1 for number, count in given_up.items())
    if sum(given_up.values()) not in (1, len(rows) - 1):  # else there was one at least, or one was left
        assert all(count > fraction * totals[number] - 1 for number, count in given_up.items())
    if unused:
        assert num_shared(split.train, split.held_out) == 0
    renamed = [replace(row, group="one", question="") if row.contribution == 0 else row for row in rows]
    if len({row.contribution for row in rows}) > 1:
        assert parts(hold_out(renamed, fraction, seed).train) == trained
    again = hold_out(rows[::-1], fraction, seed)
    assert [sorted(map(repr, part)) for part in again] == [sorted(map(repr, part)) for part in split]
