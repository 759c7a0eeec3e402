"""Which rows are held out, of honest contributions and of those that aim at the rows of others."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from workers.training.rows import IGNORED, Example, UnusableRows, encode
from workers.training.split import hold_out, merge_groups

if TYPE_CHECKING:
    from pathlib import Path


def example(group: str, contribution: int = 0, question: str = "") -> Example:
    return Example(contribution, group, (1, 2), (IGNORED, 2), question)


def test_rows_about_one_object_stay_on_one_side() -> None:
    rows = [example(f"object {i // 3}") for i in range(60)]
    train, held_out = hold_out(rows, 0.1, seed=1)
    assert len(held_out) == 6
    assert not {row.group for row in train} & {row.group for row in held_out}
    assert Counter(row.group for row in [*train, *held_out]) == Counter(row.group for row in rows)


def test_the_same_question_stays_on_one_side_with_and_without_a_source(tiny_base: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_base)

    def row(question: str, **source: str) -> Example:
        return encode(0, {"prompt": question, "completion": "A.", **source}, tokenizer, 100)

    rows = [row(f"What is {i // 3}?", source=f"object {i // 3}") for i in range(60)]
    bare = [row(f" what  IS {i}? ") for i in range(20)]
    texts = [encode(0, {"text": "Once.", **source}, tokenizer, 9) for source in ({}, {"source": "s"})]
    train, held_out = hold_out([*rows, *bare, *texts], 0.2, seed=1)
    assert len(held_out) == 16
    assert not {row.question for row in train} & {row.question for row in held_out}
    assert not {row.group for row in train} & {row.group for row in held_out}


def test_groups_are_joined_over_any_number_of_links() -> None:
    links = ["d4", "b2", "c3", "b3", "a2", "c4"]
    rows = [example(group, question=question) for group, question in links]
    expected = {"a": "a", "b": "a", "c": "a", "d": "a", "e": "e", "f": "f"}
    assert merge_groups([*rows, example("e"), example("f")]) == expected


def test_the_held_out_rows_depend_on_names_and_seed_and_not_on_order() -> None:
    rows = [example(f"object {i}") for i in range(40)]
    first = {row.group for row in hold_out(rows, 0.2, 1)[1]}
    assert {row.group for row in hold_out(rows[::-1], 0.2, 1)[1]} == first
    assert {row.group for row in hold_out(rows, 0.2, 2)[1]} != first


def test_a_single_object_cannot_be_measured() -> None:
    with pytest.raises(UnusableRows):
        hold_out([example("a"), example("a")], 0.5, 0)


def test_links_to_the_rows_of_others_leave_those_rows_in_training() -> None:
    honest = [example(f"object {i}", i % 4, f"question {i}") for i in range(200)]
    bridges = [example("0", 4, f"question {i}") for i in range(200)]
    own = [example(f"own {i}", 4) for i in range(60)]
    train, held_out = hold_out([*honest, *bridges, *own], 0.1, seed=0)
    assert Counter(row.contribution for row in train)[0] == 50
    assert {row.contribution for row in held_out} == {4}


def test_no_name_of_a_row_moves_the_rows_of_others() -> None:
    honest = [example(f"object {i}", 0) for i in range(50)]
    names = ("a", "b", "zzz")
    found = [hold_out([*honest, *(example(f"{n} {i}", 1) for i in range(90))], 0.2, 0)[1] for n in names]
    assert len({tuple(row for row in held_out if row.contribution == 0) for held_out in found}) == 1


def test_rows_that_all_share_questions_with_others_are_drawn_from_each_contribution() -> None:
    rows = [example(f"object {i}", contribution) for contribution in range(3) for i in range(20)]
    train, held_out = hold_out(rows, 0.1, seed=0)
    assert Counter(row.contribution for row in held_out) == {0: 2, 1: 2, 2: 2}
    assert len(train) == 54


def test_small_contributions_give_up_as_many_rows_in_all_as_large_ones() -> None:
    rows = [example(f"object {i}", i) for i in range(2000)]
    assert 150 < len(hold_out(rows, 0.1, seed=0)[1]) < 250


def test_what_is_held_out_of_small_contributions_is_divided_by_a_second_draw() -> None:
    rows = [example(f"object {i}", i) for i in range(600)]
    held_out = hold_out(rows, 0.1, seed=0)[1]
    parts = hold_out(held_out, 0.5, "0:stopping")
    assert all(len(part) > len(held_out) / 3 for part in parts)


@given(
    groups=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 9)), min_size=1),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(0, 99),
)
def test_each_side_has_rows_and_no_contribution_gives_up_more_than_its_part(
    groups: list[tuple[int, int, int]], fraction: float, seed: int
) -> None:
    rows = [example(f"object {group}", number, f"question {asked}") for number, group, asked in groups]
    try:
        train, held_out = hold_out(rows, fraction, seed)
    except UnusableRows:
        for number in {row.contribution for row in rows}:
            assert len(set(merge_groups([row for row in rows if row.contribution == number]).values())) == 1
        assert len({row.contribution for row in rows}) == 1
        return
    assert train
    assert held_out
    assert Counter(map(id, [*train, *held_out])) == Counter(map(id, rows))
    totals = Counter(row.contribution for row in rows)
    taken = Counter(row.contribution for row in held_out)
    if len({(row.contribution, row.group) for row in held_out}) > 1:
        assert all(count < fraction * totals[number] + 1 for number, count in taken.items())
    inside = {(row.contribution, row.question) for row in train}
    assert not inside & {(row.contribution, row.question) for row in held_out}
