from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.disputes.lookups import TreeRoot
from backend.domain.hashing import word
from backend.domain.judging.withheld_trees import (
    DifferenceSearch,
    PartialTree,
    UnsortedLeaves,
    ZeroLeaf,
    spread_evenly,
)
from backend.domain.merkle import BALANCES_TAG, SumTree
from tests.support.dishonest_operator import look_ups

if TYPE_CHECKING:
    from backend.domain.disputes.witnesses import Lookup
    from tests.support.dishonest_operator import Leaves

Found = ZeroLeaf | UnsortedLeaves | tuple[int, int]
"""Or key and value of a wrong leaf."""


def tree_of(leaves: Leaves) -> SumTree:
    return SumTree(BALANCES_TAG, ((word(key), value) for key, value in leaves))


def search(ours: Leaves, theirs: Leaves, random: Random | None = None) -> tuple[Found | None, int]:
    """What is found, of our own keys only, and after how many rounds; None if nothing can be forced out.

    `random` chooses among the answers that the operator has; without it a leaf is shown where there is one.
    """
    mine, hidden = tree_of(ours), tree_of(theirs)
    root = TreeRoot(BALANCES_TAG, hidden.root, hidden.count, hidden.total)
    values, keys = dict(ours), [key for key, _ in ours]
    answers: dict[int, Lookup] = {}
    for num_rounds in range(20):
        opened = PartialTree(root, answers.items())
        if found := opened.find_malformed():
            return found, num_rounds
        wrong = [s for s in opened.values() if s.key in values and s.value != values[s.key]]
        if wrong:
            return (wrong[0].key, wrong[0].value), num_rounds
        wanted = DifferenceSearch(opened, mine, keys).next_keys()
        assert len(wanted) <= 64
        if not wanted:
            return None, num_rounds
        found_ups = {key: look_ups(theirs, hidden, key) for key in wanted}
        answers |= {key: random.choice(ups) if random else ups[0] for key, ups in found_ups.items()}
    raise AssertionError("no end")


def honest(random: Random, count: int, gap: int = 1 << 32) -> Leaves:
    keys = sorted(random.sample(range(count * gap), count))
    return [(key, random.randint(1, 9)) for key in keys]


@settings(max_examples=60)
@given(st.integers(0, 1 << 32), st.integers(2, 300))
def test_a_surplus_is_found_by_the_shortfall_that_pays_it(seed: int, count: int) -> None:
    """Wherever both are, and whether or not the surplus is a separate leaf."""
    random = Random(seed)
    ours = honest(random, count)
    theirs = dict(ours)
    poor = random.choice(ours)[0]
    amount = random.randint(1, theirs[poor])
    theirs[poor] -= amount
    if theirs[poor] == 0:
        del theirs[poor]
    spare = random.choice([random.randrange(1 << 40), ours[0][0], poor + 1])
    theirs[spare] = theirs.get(spare, 0) + amount
    if theirs == dict(ours):
        return
    found, num_rounds = search(ours, sorted(theirs.items()), random)
    assert isinstance(found, tuple)
    assert num_rounds <= (2 if count <= 64 else 3)


def test_a_wrong_leaf_among_many_is_found_within_one_dispute_window() -> None:
    random = Random(1)
    ours = honest(random, 20_000)
    place = 12_345
    key, value = ours[place]
    for spare in (key + 1, ours[0][0] - 1, ours[-1][0] + 5):
        theirs = sorted([*ours[:place], *ours[place + 1 :], (spare, value)])
        found, num_rounds = search(ours, theirs, random)
        assert found == (key, 0)
        assert num_rounds <= 4


@settings(max_examples=60)
@given(st.integers(0, 1 << 32), st.integers(1, 200))
def test_a_zero_leaf_between_others_is_found(seed: int, count: int) -> None:
    random = Random(seed)
    ours = honest(random, count)
    taken = {key for key, _ in ours}
    spare = next(key for key in iter(lambda: random.randrange(1 << 42), None) if key not in taken)
    found, num_rounds = search(ours, sorted([*ours, (spare, 0)]), random)
    assert isinstance(found, ZeroLeaf)
    assert num_rounds <= 4


@settings(max_examples=60)
@given(st.integers(0, 1 << 32), st.integers(2, 200))
def test_any_shuffled_or_repeated_leaves_are_found(seed: int, count: int) -> None:
    """Whichever of several leaves with one key the operator opens."""
    random = Random(seed)
    ours = honest(random, count)
    theirs = list(ours)
    for _ in range(random.randint(1, 3)):
        one, other = (random.randrange(len(theirs)) for _ in range(2))
        theirs[one], theirs[other] = theirs[other], theirs[one]
    if random.random() < 0.5:
        place = random.randrange(len(theirs))
        theirs.insert(random.randrange(len(theirs)), (theirs[place][0], 0))
    if theirs != ours:
        assert search_where_answers_exist(ours, theirs, random)


def search_where_answers_exist(ours: Leaves, theirs: Leaves, random: Random) -> bool:
    """Some keys of an unsorted tree cannot be answered, which also convicts."""
    try:
        return search(ours, theirs, random)[0] is not None
    except IndexError:
        return True


@pytest.mark.parametrize("count", range(2, 12))
@pytest.mark.parametrize("place", range(1, 11))
@pytest.mark.parametrize("num_spare", [1, 2, 3, 4, 7])
def test_zero_leaves_between_adjacent_keys_appear_in_a_neighbours_path(
    count: int, place: int, num_spare: int
) -> None:
    """No key leads to them, however many are adjacent."""
    if place >= count:
        return
    ours = [(n, 5) for n in range(10, 10 + count)]
    spare = [(1 << (90 + n), 0) for n in range(num_spare)]
    theirs = [*ours[:place], *spare, *ours[place:]]
    found, _ = search(ours, theirs)
    assert isinstance(found, ZeroLeaf)
    assert found.opening.has_zero_sibling
    tree = tree_of(theirs)
    root = TreeRoot(BALANCES_TAG, tree.root, tree.count, tree.total)
    root.open_leaf(found.leaf_hash, found.opening)


def test_answers_of_another_tree_are_ignored() -> None:
    ours = honest(Random(2), 5)
    tree = tree_of(ours)
    root = TreeRoot(BALANCES_TAG, tree.root, tree.count, tree.total)
    (lookup,) = look_ups(ours, tree, ours[1][0])
    assert PartialTree(root, [(ours[1][0], lookup)]).leaves
    forged = replace(lookup, openings=(replace(lookup.openings[0], value=1),))
    assert not PartialTree(root, [(ours[1][0], forged), (ours[2][0], lookup)]).leaves


def test_indices_are_spread_evenly_and_fit_one_demand() -> None:
    assert spread_evenly(3) == [0, 1, 2]
    spread = spread_evenly(1_000)
    assert len(spread) == 64
    assert spread == sorted(set(spread))
    assert max(b - a for a, b in zip([-1, *spread], [*spread, 1_000], strict=True)) <= 16
