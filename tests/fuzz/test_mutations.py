"""Mutations that keep the form of an input: what they return is read like the input."""

from __future__ import annotations

import json
from random import Random

import pytest

from tests.fuzz.mutations import behind, framed, json_lines, json_values, words
from tests.fuzz.target import Target, check
from tests.fuzz.targets import TARGETS

SEEDS = range(100)
MUTATED = {name: target for name, target in TARGETS.items() if target.mutate}
DOCUMENT = json.dumps({"a": [1, {"b": "0x12"}], "c": None, "d": 0.5}).encode()


def length(data: bytes, size: int) -> int:
    return int.from_bytes(data[:size], "big")


def test_a_changed_document_is_another_document() -> None:
    changed = [json_values(DOCUMENT, Random(seed)) for seed in SEEDS]
    assert len({json.dumps(json.loads(each)) for each in changed}) > 80
    assert json_values(b"{", Random(0)) == b"{"


def test_one_line_of_several_is_changed() -> None:
    for seed in SEEDS:
        lines = json_lines(b"\n".join([DOCUMENT] * 3), Random(seed)).split(b"\n")
        assert [json.dumps(json.loads(line)).encode() == DOCUMENT for line in lines].count(True) >= 2


def test_a_frame_has_the_length_of_its_changed_body() -> None:
    frame = len(DOCUMENT).to_bytes(4, "big") + DOCUMENT
    mutate, places = framed(4, "big", json_values), set()
    for seed in SEEDS:
        changed = mutate(frame * 2, Random(seed))
        first = 4 + length(changed, 4)
        second = first + 4 + length(changed[first:], 4)
        assert second == len(changed)
        json.loads(changed[4:first])
        json.loads(changed[first + 4 :])
        places.add(changed[:first] == frame)
    assert places == {True, False}


def test_what_follows_a_frame_is_changed_in_its_own_way() -> None:
    mutate = framed(1, "big", json_values, lambda rest, _: rest[::-1])
    assert {mutate(b"\x011ab", Random(seed))[-2:] for seed in SEEDS} == {b"ab", b"ba"}


def test_words_of_arguments_are_replaced_by_words() -> None:
    arguments = bytes(range(96))
    for seed in SEEDS:
        changed = behind(4, words)(b"func" + arguments, Random(seed))
        assert changed[:4] == b"func"
        assert len(changed) % 32 == 4
        kept = [changed[at : at + 32] == arguments[at - 4 : at + 28] for at in (4, 36, 68)]
        assert kept.count(True) >= 2


@pytest.mark.parametrize("target", MUTATED.values(), ids=MUTATED)
def test_the_first_mutations_of_the_seeds_find_nothing(target: Target) -> None:
    inputs = target.seeds()
    target.run(inputs[0])  # what it imports is no cost of an input
    for seed in SEEDS:
        changed = (target.mutate(data, Random(f"{target.name} {seed}")) for data in inputs)
        for data in changed:
            check(target, data[: target.max_bytes])
